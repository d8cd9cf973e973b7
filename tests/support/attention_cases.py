"""Shared by the attention tests: an independent numpy implementation, and edge cases."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import DenseBias, Dropout, Mask, RelativeKeyBias, ToeplitzBias, attention, blocked
from pallas_kernels.bias import as_tuple
from pallas_kernels.dropout import keep_mask, seed_and_rate

H, K, KV = 3, 8, 5

# These programs are tiny: nearly all their time is LLVM's, and level 0 halves it.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# With more global keys than this and no `global_at`, the blocked implementation reads all keys.
FEW_GLOBALS = 3


def small_blocked(q, k, v, *, mask=Mask(), bias=None, scale=K**-0.5, dropout=None):  # noqa: B008 - frozen, holds no array
    """`attention` by "xla_blocked" with blocks of 4 queries and 2 causal sections, so that short sequences cover every
    edge."""
    seed, rate = seed_and_rate(dropout)
    sizes = {"block": 4, "sections": 2, "max_global_keys": FEW_GLOBALS}
    options = {"biases": as_tuple(bias), "scale": scale, "seed": seed, "rate": rate}
    return blocked.attend(q, k, v, mask=mask, **options, **sizes)


# By the name of the implementation.
IMPLEMENTATIONS = {"xla": partial(attention, implementation="xla"), "xla_blocked": small_blocked}


def start_of(mask, b):
    """Position of the first query of example b."""
    return 0 if mask.query_start is None else int(np.ravel(mask.query_start)[b if np.ndim(mask.query_start) else 0])


def is_visible(mask, b, t, s):
    """The visibility rule, one query and one key at a time."""
    p = start_of(mask, b) + t
    if mask.key_valid is not None and not mask.key_valid[b, s]:
        return False
    if mask.causal and s > p:
        return False
    if mask.key_segments is not None and mask.query_segments[b, t] != mask.key_segments[b, s]:
        return False
    if mask.window is None or (mask.key_global is not None and mask.key_global[b, s]):
        return True
    return -mask.window[0] <= s - p <= mask.window[1]


def bias_terms(bias, q, k, start, b, h, t, s):
    """(added before scaling, added after scaling)."""
    T = q.shape[1]
    if isinstance(bias, tuple):
        return tuple(map(sum, zip(*(bias_terms(each, q, k, start, b, h, t, s) for each in bias), strict=True)))
    if isinstance(bias, DenseBias):
        return 0.0, np.broadcast_to(bias.values, (*q.shape[:3:2], T, k.shape[1]))[b, h, t, s]
    if isinstance(bias, ToeplitzBias):
        return 0.0, np.broadcast_to(bias.diagonals, (q.shape[0], *bias.diagonals.shape[-2:]))[b, h, s - t + T - 1]
    if isinstance(bias, RelativeKeyBias):
        row = np.asarray(bias.embedding)[start + t - s + (len(bias.embedding) - 1) // 2]
        return q[b, t, h] @ row + (k[b, s, h] @ row if bias.key_term else 0.0), 0.0
    return 0.0, 0.0


def attention_by_loops(q, k, v, mask, bias, scale, dropout):
    """(output, weights) in float64, one pair of query and key at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (B, T, heads, _), S = q.shape, k.shape[1]
    k, v = (np.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
    keep, rate = np.ones((B, heads, T, S), bool), 0.0
    if dropout is not None:
        b, h, t, s = np.meshgrid(*map(np.arange, keep.shape), indexing="ij")
        keep, rate = np.asarray(keep_mask(dropout.seed(), b, h, t, s, dropout.rate)), dropout.rate
    weights = np.zeros((B, heads, T, S))
    for b, h, t in np.ndindex(B, heads, T):
        visible = [s for s in range(S) if is_visible(mask, b, t, s)]
        if not visible:
            continue
        scores = []
        for s in visible:
            before, after = bias_terms(bias, q, k, start_of(mask, b), b, h, t, s)
            scores.append((q[b, t, h] @ k[b, s, h] + before) * scale + after)
        exponentials = np.exp(np.array(scores) - max(scores))
        weights[b, h, t, visible] = exponentials / exponentials.sum()
    weights = weights * keep / (1 - rate)
    return np.einsum("bhts,bshk->bthk", weights, v), weights


def format_case(case) -> str:
    """The fields of a case that differ from their defaults: its id among the tests."""
    fields = case.__dataclass_fields__.items()
    changed = [f"{n}={getattr(case, n)}" for n, f in fields if getattr(case, n) != f.default]
    return ",".join(changed).replace(" ", "")


@dataclass(frozen=True)
class Case:
    """Shapes and options; arrays come from a generator seeded by the case itself. G: key heads, None for H."""

    T: int
    S: int
    B: int = 2
    H: int = H
    G: int | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    valid: str | None = None  # "some", or "none" for a first example without any valid key
    globals: float = 0.0  # share of global keys
    start: int | tuple[int, ...] | None = None
    segments: int = 0  # how many sequences are packed into each example
    bias: str | None = None
    rate: float = 0.0
    scale: float = K**-0.5

    __str__ = format_case

    def build(self):
        """q, k, v, mask, bias, dropout."""
        rng = np.random.default_rng(self.T * 1009 + self.S)
        B, T, S, H, G = self.B, self.T, self.S, self.H, self.G or self.H

        def normal(*shape):
            return jnp.asarray(rng.normal(size=shape), jnp.float32)

        q, k, v = normal(B, T, H, K), normal(B, S, G, K), normal(B, S, G, KV)
        valid, is_global = rng.random((B, S)) < 0.6, rng.random((B, S)) < self.globals
        valid[0] &= self.valid != "none"
        mask = Mask(
            causal=self.causal,
            window=self.window,
            key_valid=jnp.asarray(valid) if self.valid else None,
            key_global=jnp.asarray(is_global) if self.globals else None,
            query_start=None if self.start is None else jnp.asarray(self.start, jnp.int32),
            **self.packed(),
        )
        P = max(T, S) + 2
        bias = {
            None: lambda: None,
            "dense": lambda: DenseBias(normal(B, H, T, S)),
            "dense over keys": lambda: DenseBias(normal(B, 1, 1, S)),
            "dense rank 2": lambda: DenseBias(normal(T, 1)),
            "toeplitz": lambda: ToeplitzBias(normal(H, T + S - 1)),
            "toeplitz per example": lambda: ToeplitzBias(normal(B, H, T + S - 1)),
            "relative_key": lambda: RelativeKeyBias(normal(2 * P - 1, K)),
            "relative_key + toeplitz + dense": lambda: (
                RelativeKeyBias(normal(2 * P - 1, K)),
                ToeplitzBias(normal(H, T + S - 1)),
                DenseBias(normal(B, 1, T, S)),
            ),
            "relative_key_query": lambda: RelativeKeyBias(normal(2 * P - 1, K), key_term=True),
        }[self.bias]()
        return q, k, v, mask, bias, Dropout(self.rate, jax.random.key(7)) if self.rate else None

    def packed(self):
        """Segments of different lengths in each example."""
        if not self.segments:
            return {}

        def ids(length):
            ends = np.random.default_rng(length).integers(0, length, (self.B, self.segments - 1))
            return jnp.asarray((np.arange(length)[:, None] > ends[:, None]).sum(axis=-1), jnp.int32)

        return {"query_segments": ids(self.T), "key_segments": ids(self.S)}


# Lengths fall on, below and beside an edge of the blocks of 4 queries of `small_blocked`.
CASES = [
    Case(1, 1),
    Case(8, 8, causal=True, rate=0.3),
    Case(7, 13, valid="some"),
    Case(13, 7, valid="none", rate=0.5),
    Case(9, 5, causal=True, valid="none", bias="dense over keys"),
    Case(1, 17, causal=True, start=11, bias="toeplitz per example"),
    Case(1, 17, causal=True, start=(3, 16), valid="some"),
    Case(6, 17, causal=True, start=11, bias="relative_key"),
    Case(6, 17, start=(0, 9), causal=True, bias="relative_key_query", rate=0.2),
    Case(19, 19, bias="relative_key_query", scale=1.0),
    Case(19, 11, bias="dense", scale=1.0),
    Case(1, 17, start=11, causal=True, bias="relative_key_query"),
    Case(14, 14, bias="relative_key + toeplitz + dense", scale=0.7),
    Case(8, 19, bias="dense rank 2", causal=True),
    Case(21, 21, window=(0, 0)),
    Case(21, 21, window=(2, 3), valid="some"),
    Case(30, 30, window=(3, 3), causal=True, rate=0.3),
    Case(20, 20, window=(3, 1), bias="toeplitz", rate=0.2),
    Case(30, 30, window=(3, 1), bias="relative_key_query"),
    Case(6, 30, window=(2, 2), start=13),
    Case(6, 30, window=(2, 2), start=(13, 27), causal=True),
    Case(6, 12, window=(2, 2), start=40),
    Case(28, 28, window=(2, 2), globals=0.03, valid="some", rate=0.3),
    Case(28, 28, window=(2, 50), globals=0.03, causal=True, valid="none"),
    Case(20, 20, window=(2, 2), globals=0.05, bias="toeplitz"),
    Case(21, 21, causal=True, segments=3, valid="some"),
    Case(13, 19, segments=2, bias="toeplitz", rate=0.3),
    Case(30, 30, window=(3, 1), segments=4),
    Case(13, 7, H=8, G=2, valid="none", rate=0.5),
    Case(1, 17, H=4, G=1, causal=True, start=11, bias="relative_key_query"),
    Case(6, 17, H=6, G=3, causal=True, start=11, bias="relative_key_query", rate=0.2),
    Case(14, 14, H=4, G=2, causal=True, bias="relative_key + toeplitz + dense", scale=0.7),
    Case(28, 28, H=4, G=1, window=(2, 2), globals=0.03, valid="some", rate=0.3),
]
