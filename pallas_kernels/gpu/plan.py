"""What a score tile is made of, and which tiles there are: shared by the forward and the backward kernels."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.dropout import column_words, keep_words, row_words
from pallas_kernels.gpu.tiles import Sides
from pallas_kernels.kernel_call import HIDDEN


class Operands(NamedTuple):
    """What a call reads; None where it has no such part.

    q: [B,T,H,K] scaled by scale * log2(e). k: [B,S,H,K]. v: [B,S,H,Kv]. Widths are powers of two from 16 on, T and S
    multiples of the sides of all tiles.
    key_bias: float32 [B,S], 0 or HIDDEN.
    bias: float32 in units of log2; [B or 1, H or 1, T*S], or the diagonals of a Toeplitz one, [B or 1, H, T+S-1].
    global_at: int32 [B,G], the places of the keys that a window does not hide, G a power of two from 16 on;
    global_bias: float32 [B,G], 0 or HIDDEN.
    words: uint32 [B,H,3], the dropout's of each head. start: int32 [B], the first query's position among the keys.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array | None
    bias: jax.Array | None
    global_at: jax.Array | None
    global_bias: jax.Array | None
    words: jax.Array | None
    start: jax.Array | None


class Gathered(NamedTuple):
    """The global keys and values, [B,G,H,K] and [B,G,H,Kv]."""

    k: jax.Array
    v: jax.Array


@dataclass(frozen=True)
class Plan:
    """Static. A query at position p sees keys from p - left to p + right, None for no bound; `causal` says that of
    global keys too those to its right are hidden. forward, keys, queries, bias: tiles of the forward kernel and of the
    gradients by keys and values, by queries, by the bias."""

    left: int | None
    right: int | None
    causal: bool
    toeplitz: bool
    rate: float
    forward: Sides
    keys: Sides
    queries: Sides
    bias: Sides


class Head(NamedTuple):
    """What one program knows of its example and head. bias: a ref, [T*S] or [T+S-1]. lengths: (T, S)."""

    start: Any
    words: list | None
    bias: Any
    lengths: tuple[int, int]


class Span(NamedTuple):
    """Blocks of keys (or of queries) in reach, [lo, hi); those of [whole, rest) are seen in full."""

    lo: Any
    whole: Any
    rest: Any
    hi: Any

    def loop(self, body, carry):
        """body(block, carry, edge) over the blocks in order; `edge` says that some pairs may be out of reach."""
        for start, end, edge in (
            (self.lo, self.whole, True),
            (self.whole, self.rest, False),
            (self.rest, self.hi, True),
        ):
            if isinstance(start, int) and isinstance(end, int) and start == end:
                continue
            carry = jax.lax.fori_loop(start, end, lambda i, c, edge=edge: body(i, c, edge), carry)
        return carry


def span(first, count: int, before: int | None, after: int | None, size: int, blocks: int) -> Span:
    """The blocks of `size` that the `count` places from `first` on reach, each from -before to +after of itself."""
    last = first + count - 1

    def up(x):
        return jax.lax.div(jnp.maximum(x, 0) + (size - 1), size)

    def down(x):
        return jax.lax.div(jnp.maximum(x, 0), size)

    if before is None and after is None:
        return Span(0, 0, blocks, blocks)
    lo = 0 if before is None else jnp.minimum(down(first - before), blocks)
    hi = blocks if after is None else jnp.minimum(up(last + after + 1), blocks)
    hi = jnp.maximum(lo, hi)
    whole = 0 if before is None else jnp.clip(up(last - before), lo, hi)
    rest = hi if after is None else jnp.clip(down(first + after + 1), whole, hi)
    return Span(lo, whole, rest, hi)


def score_tile(plan: Plan, head: Head, products, t, s, key_bias, edge: bool):
    """float32 scores of a tile with bias and mask, from the products of its queries and keys.

    t, s: int32, the indices of queries and keys, broadcasting to the tile (either may be the rows).
    key_bias: broadcasts too, or None.
    """
    scores = products
    if head.bias is not None:
        T, S = head.lengths
        scores = scores + head.bias[s - t + (T - 1) if plan.toeplitz else t * S + s]
    if key_bias is not None:
        scores = scores + key_bias
    if edge:
        p = t + head.start
        if plan.left is not None:
            scores = jnp.where(s >= p - plan.left, scores, HIDDEN)
        if plan.right is not None:
            scores = jnp.where(s <= p + plan.right, scores, HIDDEN)
    return scores


def global_tile(plan: Plan, head: Head, products, t, s, key_bias):
    """`score_tile` of global keys at places s, which only a causal mask hides."""
    scores = products + key_bias
    return jnp.where(s <= t + head.start, scores, HIDDEN) if plan.causal else scores


def kept(plan: Plan, head: Head, t, s):
    """bool: what dropout leaves of a tile (`dropout.keep`)."""
    word, *seed = head.words
    first, second = row_words(word, seed, t.astype(jnp.uint32))
    return keep_words(first, second, column_words(s.astype(jnp.uint32)), plan.rate)
