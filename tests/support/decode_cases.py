"""Calls of `pallas_kernels.decode` and what they should give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from support.interpreted import running

from pallas_kernels import DenseBias, Mask, RelativeKeyBias, Stored, ToeplitzBias, decode
from pallas_kernels.decoding import by_kernel


def random(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


class Decoder(NamedTuple):
    """`decode` under a name, or by a kernel's `attend` with a size of its own; called with its arguments."""

    name: str
    attend: Callable | None = None

    def __call__(self, q, stored, **options) -> jax.Array:
        if self.attend is None:
            return decode(q, stored, implementation=self.name, **options)
        return by_kernel(self.attend, q, stored, **options)


XLA, GPU = Decoder("xla"), Decoder("pallas_gpu")


@dataclass(frozen=True)
class DecodeCase:
    """T queries, S slots. start: of the queries, one or for each example. valid: "some" or "none" of an example's slots
    hold something. bias: a word of those in `biases`."""

    T: int
    S: int
    B: int = 2
    H: int = 3
    K: int = 16
    dtype: str = "float32"
    causal: bool = False
    start: int | tuple[int, ...] | None = None
    valid: str | None = None
    bias: str = ""

    def mask(self) -> Mask:
        flags = {"some": np.arange(self.S) % 3 > 0, "none": np.zeros(self.S, bool)}
        valid = None
        if self.valid:
            valid = jnp.asarray(np.stack([flags[self.valid], *[flags["some"]] * (self.B - 1)]))
        start = None if self.start is None else jnp.asarray(self.start, jnp.int32)
        return Mask(self.causal, key_valid=valid, query_start=start)

    def biases(self):
        T, S, H, K = self.T, self.S, self.H, self.K
        made = {
            "dense": lambda: DenseBias(random(7, (self.B, 1, T, S))),
            "toeplitz": lambda: ToeplitzBias(random(8, (H, T + S - 1))),
            "relative_key_query": lambda: RelativeKeyBias(random(9, (2 * S - 1, K)), True),
        }
        return tuple(made[word]() for word in self.bias.split())

    def arrays(self) -> tuple[jax.Array, Stored]:
        q, key, value = (random(i, (self.B, n, self.H, self.K)) for i, n in enumerate((self.T, self.S, self.S)))
        if self.dtype != "int8":
            return q.astype(self.dtype), Stored(
                *(x.reshape(self.B, self.S, -1).astype(self.dtype) for x in (key, value))
            )
        scales = [jnp.abs(x).max(axis=-1) / 127 for x in (key, value)]
        whole = [
            jnp.round(x / scale[..., None]).astype(jnp.int8) for x, scale in zip((key, value), scales, strict=True)
        ]
        return q, Stored(*(x.reshape(self.B, self.S, -1) for x in whole), *(s.swapaxes(1, 2) for s in scales))

    def run(self, run: Decoder) -> np.ndarray:
        """float32 [B,T,H,K]."""
        (q, stored), mask, bias = self.arrays(), self.mask(), self.biases()

        @jax.jit
        def value(q, stored, mask, bias):
            return run(q, stored, mask=mask, bias=bias, scale=0.3)

        with jax.default_matmul_precision("highest"), running(run.name):
            return np.asarray(value(q, stored, mask, bias), np.float32)


def assert_decodes(case: DecodeCase, kernel: Decoder, atol: float = 4e-6) -> None:
    """As the reference does over what was read from the cache."""
    expected, got = case.run(XLA), case.run(kernel)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, atol=atol)
    if case.valid == "none":
        assert not got[0].any()
