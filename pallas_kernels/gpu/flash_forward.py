"""Forward pass of flash attention on a GPU, and the score tiles that the backward kernels share.

A block of queries attends to the keys in its reach, block by block: o = v softmax2(q k' + bias). With S the scores of
one block of keys, the softmax is online:

    max' = max(max, S),  a = exp2(max - max'),  P = exp2(S - max'),  sum' = a sum + P 1,  o' = a o + P v

Global keys are one more block, the first in the same softmax. The statistics max and 1/sum of each query are residuals
of the backward pass; 1/sum is stored as zero for a query without a visible key, which makes its output and all its
gradients zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.base2 import NO_VISIBLE_KEY
from pallas_kernels.dropout import keep_from_bits, key_bits, query_bits
from pallas_kernels.gpu.tiles import GpuTiling, block_of_head, compiler_params, product, whole_key_head
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.mask import MASK_VALUE

# An index that may be traced.
Index = jax.Array | int


class FlashOperands(NamedTuple):
    """The arrays that the kernels read; None where a call has no such part.

    Head widths are padded to powers of two from 16 on, T and S to multiples of the sides of all tiles.

    Attributes:
      q: [B, T, H, K], scaled by scale * log2(e).
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      key_bias: float32 [B, S], 0 or MASK_VALUE.
      bias: float32 in units of log2; [B or 1, H or 1, T*S], or the diagonals of a Toeplitz bias, [B or 1, H, T+S-1].
      global_at: int32 [B, N], the positions of the keys that a window does not mask, N a power of two from 16 on.
      global_bias: float32 [B, N], 0 or MASK_VALUE.
      random_bits: uint32 [B, H, 3], the dropout bits of each head.
      start: int32 [B], the first query's position among the keys.
      query_segments: int32 [B, T].
      key_segments: int32 [B, S].
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array | None
    bias: jax.Array | None
    global_at: jax.Array | None
    global_bias: jax.Array | None
    random_bits: jax.Array | None
    start: jax.Array | None
    query_segments: jax.Array | None
    key_segments: jax.Array | None


class FlashGlobalKV(NamedTuple):
    """The gathered global keys [B, N, G, K] and values [B, N, G, Kv]."""

    k: jax.Array
    v: jax.Array


@dataclass(frozen=True)
class FlashPlan:
    """Static description of a call.

    Attributes:
      left, right: A query at position p sees keys from p - left to p + right, None for no bound.
      causal: Whether global keys to the right of a query are masked too.
      toeplitz: Whether the bias is a Toeplitz one.
      rate: Dropout's rate.
      group: Query heads that share a key head.
      forward: Tiling of the forward kernel.
      dkv: Tiling of the gradient with respect to keys and values.
      dq: Tiling of the gradient with respect to queries.
      dbias: Tiling of the gradient with respect to the bias.
    """

    left: int | None
    right: int | None
    causal: bool
    toeplitz: bool
    rate: float
    group: int
    forward: GpuTiling
    dkv: GpuTiling
    dq: GpuTiling
    dbias: GpuTiling


class HeadContext(NamedTuple):
    """What a program reads of its example and head.

    Attributes:
      start: The first query's position among the keys.
      random_bits: Three uint32, the dropout bits, or None.
      bias: A ref, [T*S] or [T+S-1], or None.
      lengths: (T, S).
      bias_head: The index of the head in the bias, where that has one of several heads.
      segments: Refs of the segments of queries [T] and keys [S], or None.
    """

    start: Index
    random_bits: list[jax.Array] | None
    bias: Any
    lengths: tuple[int, int]
    bias_head: tuple[Index, ...] = ()
    segments: tuple[Any, Any] | None = None


class BlockRange(NamedTuple):
    """The blocks of keys (or of queries) in reach, [start, end); those of [full_start, full_end) are seen in full."""

    start: Index
    full_start: Index
    full_end: Index
    end: Index

    def loop(self, body: Callable, carry: Any) -> Any:
        """Runs body(block, carry, partial) over the blocks; `partial` tells that some pairs may be out of reach."""
        for start, end, is_partial in (
            (self.start, self.full_start, True),
            (self.full_start, self.full_end, False),
            (self.full_end, self.end, True),
        ):
            if isinstance(start, int) and isinstance(end, int) and start == end:
                continue
            carry = jax.lax.fori_loop(start, end, lambda i, c, is_partial=is_partial: body(i, c, is_partial), carry)
        return carry


def reachable_blocks(
    first: Index, count: int, before: int | None, after: int | None, size: int, blocks: int
) -> BlockRange:
    """The blocks that `count` consecutive positions reach.

    Args:
      first: The first position.
      count: The number of positions.
      before, after: Each position reaches from -before to +after of itself; None for no bound.
      size: Positions of a block.
      blocks: Number of blocks.

    Returns:
      The range of blocks.
    """
    last = first + count - 1

    def ceil_div(x):
        return jax.lax.div(jnp.maximum(x, 0) + (size - 1), size)

    def floor_div(x):
        return jax.lax.div(jnp.maximum(x, 0), size)

    if before is None and after is None:
        return BlockRange(0, 0, blocks, blocks)
    start = 0 if before is None else jnp.minimum(floor_div(first - before), blocks)
    end = blocks if after is None else jnp.minimum(ceil_div(last + after + 1), blocks)
    end = jnp.maximum(start, end)
    full_start = 0 if before is None else jnp.clip(ceil_div(last - before), start, end)
    full_end = end if after is None else jnp.clip(floor_div(first + after + 1), full_start, end)
    return BlockRange(start, full_start, full_end, end)


def score_tile(
    plan: FlashPlan,
    head: HeadContext,
    products: jax.Array,
    t: jax.Array,
    s: jax.Array,
    key_bias: jax.Array | None,
    is_partial: bool,
) -> jax.Array:
    """The scores of a tile with bias and mask.

    Args:
      plan: Of the call.
      head: Of the program.
      products: float32, the dot products of the tile's queries and keys.
      t, s: int32, the indices of queries and keys, broadcasting to the tile (either may be its rows).
      key_bias: float32, broadcasting to the tile too, or None.
      is_partial: Whether some pairs may be out of reach.

    Returns:
      float32, of the shape of `products`.
    """
    scores = products
    if head.bias is not None:
        T, S = head.lengths
        scores = scores + head.bias[*head.bias_head, s - t + (T - 1) if plan.toeplitz else t * S + s]
    if key_bias is not None:
        scores = scores + key_bias
    if head.segments is not None:
        of_queries, of_keys = head.segments
        scores = jnp.where(of_queries[t] == of_keys[s], scores, MASK_VALUE)
    if is_partial:
        p = t + head.start
        if plan.left is not None:
            scores = jnp.where(s >= p - plan.left, scores, MASK_VALUE)
        if plan.right is not None:
            scores = jnp.where(s <= p + plan.right, scores, MASK_VALUE)
    return scores


def global_score_tile(
    plan: FlashPlan, head: HeadContext, products: jax.Array, t: jax.Array, s: jax.Array, key_bias: jax.Array
) -> jax.Array:
    """`score_tile` of global keys at positions s, which only a causal mask masks."""
    scores = products + key_bias
    return jnp.where(s <= t + head.start, scores, MASK_VALUE) if plan.causal else scores


def keep_tile(plan: FlashPlan, head: HeadContext, t: jax.Array, s: jax.Array) -> jax.Array:
    """Dropout's keep mask of a tile (`dropout.keep_mask`): bool, in the broadcast shape of the indices t and s."""
    assert head.random_bits is not None
    head_bits, *seed = head.random_bits
    first, second = query_bits(head_bits, seed, t.astype(jnp.uint32))
    return keep_from_bits(first, second, key_bits(s.astype(jnp.uint32)), plan.rate)


def forward(
    plan: FlashPlan, x: FlashOperands, global_kv: FlashGlobalKV | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs the forward kernel.

    Args:
      plan: Of the call.
      x: Of the call.
      global_kv: The gathered global keys and values, or None.

    Returns:
      The output [B, T, H, Kv] in v.dtype, and the statistics max and 1/sum, float32 [B, H, T] each.
    """
    (B, T, H, K), Kv = x.q.shape, x.v.shape[3]
    size = plan.forward.queries
    statistic = BlockedArray(jax.ShapeDtypeStruct((B, H, T), jnp.float32), statistic_block(size))
    results = call_kernel(
        partial(_kernel, plan, (T, x.k.shape[1])),
        name="flash_forward",
        grid=(T // size, H, B),
        compiler_params=compiler_params(plan.forward),
        inputs={
            "q": BlockedArray(x.q, block_of_head(size, K)),
            "k": BlockedArray(x.k, whole_key_head(x.k.shape[1], K, plan.group)),
            "v": BlockedArray(x.v, whole_key_head(x.v.shape[1], Kv, plan.group)),
            **shared_inputs(x),
            **global_inputs(plan, x, global_kv),
        },
        outputs={
            "o": BlockedArray(jax.ShapeDtypeStruct((B, T, H, Kv), x.v.dtype), block_of_head(size, Kv)),
            "max": statistic,
            "inverse_sum": statistic,
        },
    )
    return results["o"], results["max"], results["inverse_sum"]


def statistic_block(size: int) -> pl.BlockSpec:
    """The block `program_id(0)` of a head of a statistic [B, H, T]."""
    return pl.BlockSpec((None, None, size), lambda i, h, b: (b, h, i))


def shared_inputs(x: FlashOperands, group: int = 1) -> dict[str, BlockedArray | None]:
    """What all blocks of a head read: key_bias [S], bias, random_bits [3], start [1], segments [T] and [S].

    Args:
      x: Of the call.
      group: Query heads of a program; several have a leading axis of the bias, where it has heads, and of random_bits.

    Returns:
      The inputs by name.
    """
    heads = None if group == 1 else group

    def bias_index(i, h, b):
        assert x.bias is not None
        return b if x.bias.shape[0] > 1 else 0, h if x.bias.shape[1] > 1 else 0, 0

    def of_example(a):
        return pl.BlockSpec((None, a.shape[1]), lambda i, h, b: (b, 0))

    specs = {
        "key_bias": of_example,
        "query_segments": of_example,
        "key_segments": of_example,
        "bias": lambda a: pl.BlockSpec((None, heads if a.shape[1] > 1 else None, a.shape[2]), bias_index),
        "random_bits": lambda a: pl.BlockSpec((None, heads, 3), lambda i, h, b: (b, h, 0)),
        "start": lambda a: pl.BlockSpec((1,), lambda i, h, b: (b,)),
    }
    return {n: None if (a := getattr(x, n)) is None else BlockedArray(a, spec(a)) for n, spec in specs.items()}


def global_inputs(plan: FlashPlan, x: FlashOperands, global_kv: FlashGlobalKV | None) -> dict[str, BlockedArray]:
    """The global keys and values of a head, their positions and their bias."""
    if global_kv is None or x.global_at is None:
        return {}
    N = x.global_at.shape[1]
    per_key = pl.BlockSpec((None, N), lambda i, h, b: (b, 0))
    return {
        "global_k": BlockedArray(global_kv.k, whole_key_head(N, global_kv.k.shape[3], plan.group)),
        "global_v": BlockedArray(global_kv.v, whole_key_head(N, global_kv.v.shape[3], plan.group)),
        "global_at": BlockedArray(x.global_at, per_key),
        "global_bias": BlockedArray(x.global_bias, per_key),
    }


def head_context(refs: Refs, lengths: tuple[int, int], member: tuple[Index, ...] = ()) -> HeadContext:
    """Reads a program's example and head. member: the index of the head in a program that has several."""
    return HeadContext(
        refs["start"][0] if "start" in refs else 0,
        [refs["random_bits"][*member, i] for i in range(3)] if "random_bits" in refs else None,
        refs.get("bias"),
        lengths,
        member if "bias" in refs and refs["bias"].ndim > 1 else (),
        (refs["query_segments"], refs["key_segments"]) if "key_segments" in refs else None,
    )


def global_tile_keys(refs: Refs, tile_keys: int) -> int:
    """Number of global keys of a tile."""
    return min(tile_keys, refs["global_k"].shape[0])


def _kernel(plan: FlashPlan, lengths: tuple[int, int], refs: Refs) -> None:
    size, tile_keys = plan.forward.queries, plan.forward.keys
    t0, head, q = pl.program_id(0) * size, head_context(refs, lengths), refs["q"][...]
    t = (t0 + jnp.arange(size, dtype=jnp.int32))[:, None]

    def add_tile(carry, scores, v, s):
        out, score_max, exp_sum = carry
        new_max = jnp.maximum(score_max, scores.max(axis=1))
        correction, weights = jnp.exp2(score_max - new_max), jnp.exp2(scores - new_max[:, None])
        exp_sum = exp_sum * correction + weights.sum(axis=1)
        if plan.rate:
            weights = jnp.where(keep_tile(plan, head, t, s), weights, 0.0)
        return out * correction[:, None] + product(weights.astype(v.dtype), v), new_max, exp_sum

    def add_keys(j, carry, is_partial):
        keys = pl.ds(j * tile_keys, tile_keys)
        s = (j * tile_keys + jnp.arange(tile_keys, dtype=jnp.int32))[None, :]
        key_bias = refs["key_bias"][keys][None, :] if "key_bias" in refs else None
        scores = score_tile(plan, head, product(q, refs["k"][keys, :].T), t, s, key_bias, is_partial)
        return add_tile(carry, scores, refs["v"][keys, :], s)

    def add_global_keys(g, carry):
        keys = pl.ds(g * chunk, chunk)
        s = refs["global_at"][keys][None, :]
        products = product(q, refs["global_k"][keys, :].T)
        scores = global_score_tile(plan, head, products, t, s, refs["global_bias"][keys][None, :])
        return add_tile(carry, scores, refs["global_v"][keys, :], s)

    carry = (
        jnp.zeros((size, refs["v"].shape[1]), jnp.float32),
        jnp.full((size,), MASK_VALUE, jnp.float32),
        jnp.zeros((size,), jnp.float32),
    )
    if "global_k" in refs:
        chunk = global_tile_keys(refs, tile_keys)
        carry = jax.lax.fori_loop(0, refs["global_k"].shape[0] // chunk, add_global_keys, carry)
    reach = reachable_blocks(head.start + t0, size, plan.left, plan.right, tile_keys, lengths[1] // tile_keys)
    out, score_max, exp_sum = reach.loop(add_keys, carry)
    inverse_sum = jnp.where(score_max > NO_VISIBLE_KEY, 1.0 / exp_sum, 0.0)
    refs["o"][...] = (out * (inverse_sum / (1.0 - plan.rate))[:, None]).astype(refs["o"].dtype)
    refs["max"][...] = score_max
    refs["inverse_sum"][...] = inverse_sum
