"""Attention of a few queries over a packed KV cache on a GPU: the kernel of `pallas_kernels.decode`.

A program attends with a few queries of one key head, those of all query heads that share it, to a share of its keys. A
step reads every key and value once and computes little, so memory sets the pace: tiles are loaded straight into shared
memory, two ahead of the one in use (the pipeline that Triton makes of a loop with products). The queries are padded to
the 16 rows of a matrix unit's smallest product, so that several cost no more than one. The softmax is online
(FlashAttention, arXiv:2205.14135). The visible keys are split over so many programs that all multiprocessors of a GPU
read at the same time, and XLA merges their results (flash-decoding,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html). The scales of an int8 cache multiply scores and weights, not
keys and values.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.base2 import NO_VISIBLE_KEY
from pallas_kernels.bias import Biases
from pallas_kernels.gpu.device import Gpu, unsupported_gpu_reason
from pallas_kernels.gpu.tiles import (
    DECODE_TILINGS,
    MIN_DECODE_PROGRAMS,
    MIN_TILE_SIZE,
    GpuTiling,
    compiler_params,
    next_power_of_two,
    product,
)
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.kv_cache import DecodeOperands, PackedKV, decode_operands, to_query_heads, without_gradient
from pallas_kernels.mask import MASK_VALUE, Mask

MAX_HEAD_DIM = 128
# Of a call, and of all heads that share a key head, which are the rows of a program's tiles.
MAX_QUERIES, MAX_ROWS = 16, 64
DTYPES = ("bfloat16", "float16", "float32")
# Offsets are int32.
MAX_CACHE_ELEMENTS = 2**31


@dataclass(frozen=True)
class GpuDecodePlan:
    """Static description of a call.

    Attributes:
      head_dim, value_dim: K and Kv.
      rows: Queries of a key head, padded to the rows of a product.
      shares: Parts into which the keys are split, a program each.
      tiling: Of a program.
    """

    head_dim: int
    value_dim: int
    rows: int
    shares: int
    tiling: GpuTiling


def unsupported_reason(q: jax.Array, packed: PackedKV, gpu: Gpu | None = None) -> str | None:
    """Why the kernel does not support a call.

    Args:
      q: [B, T, H, K].
      packed: The cache.
      gpu: The GPU that the call would run on; None for those of this process.

    Returns:
      The reason, or None where it supports the call.
    """
    _, T, H, K = q.shape
    G = packed.heads(K)
    Kv = packed.value.shape[2] // G
    if reason := unsupported_gpu_reason(gpu):
        return reason
    if T > MAX_QUERIES or T * H // G > MAX_ROWS:
        return (
            f"the decode kernel supports up to {MAX_QUERIES} queries, {MAX_ROWS} of all heads that share a key head; "
            f"got {T} of {H // G} heads"
        )
    dtypes = [str(x.dtype) for x in (q, packed.key, packed.value)]
    if dtypes[0] not in DTYPES or not set(dtypes[1:]) <= {*DTYPES, "int8"}:
        return f"queries must be {', '.join(DTYPES)}, keys and values one of these or int8; got {', '.join(dtypes)}"
    if max(K, Kv) > MAX_HEAD_DIM:
        return f"the head width must be at most {MAX_HEAD_DIM}; got K = {K}, Kv = {Kv}"
    if max(packed.key.size, packed.value.size) > MAX_CACHE_ELEMENTS:
        return f"keys and values of a cache may each have {MAX_CACHE_ELEMENTS} elements; got keys {packed.key.shape}"
    return None


def attend(
    q: jax.Array,
    packed: PackedKV,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    min_programs: int = MIN_DECODE_PROGRAMS,
) -> jax.Array:
    """Attention over a packed KV cache.

    Args:
      q: [B, T, H, K].
      packed: The cache.
      mask, biases, scale: As in `pallas_kernels.decode`.
      min_programs: The least number of programs.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    x = decode_operands(q, packed, mask=mask, biases=biases, scale=scale)
    (_, _, H, K), queries = q.shape, x.q.shape[1]
    padded, bias = jnp.pad(x.q, [(0, 0)] * 3 + [(0, next_power_of_two(K) - K)]), x.bias
    if bias is not None:
        bias = jnp.repeat(bias, queries // bias.shape[1], axis=1)
    return to_query_heads(_decode(_plan(q, packed, min_programs), x._replace(q=padded, bias=bias)), H)


def _plan(q: jax.Array, packed: PackedKV, min_programs: int) -> GpuDecodePlan:
    (B, T, H, K), S = q.shape, packed.key.shape[1]
    G = packed.heads(K)
    shares = min(-(-min_programs // (B * G)), -(-S // MIN_TILE_SIZE))
    tiling = DECODE_TILINGS[max(packed.key.dtype.itemsize, packed.value.dtype.itemsize)]
    return GpuDecodePlan(K, packed.value.shape[2] // G, next_power_of_two(T * H // G), shares, tiling)


@without_gradient
def _decode(plan: GpuDecodePlan, x: DecodeOperands) -> jax.Array:
    """[B, T*R, G, Kv] in q.dtype. x.q is padded to a power of two of at least K, x.bias has all T*R queries."""
    (B, T, H, head_dim), S, value_dim = x.q.shape, x.key.shape[1], next_power_of_two(plan.value_dim)

    def all_heads(array):
        return BlockedArray(array, pl.BlockSpec((None, *array.shape[1:]), lambda h, n, b: (b, 0, 0)))

    def of_head(array):
        return array if array is None else BlockedArray(array, pl.BlockSpec((None, None, S), lambda h, n, b: (b, h, 0)))

    def bias_index(h, n, b):
        return b if x.bias.shape[0] > 1 else 0, 0, h if x.bias.shape[2] > 1 else 0, 0

    statistic = BlockedArray(
        jax.ShapeDtypeStruct((B, plan.shares, T, H), jnp.float32),
        pl.BlockSpec((None, None, T, None), lambda h, n, b: (b, n, 0, h)),
    )
    results = call_kernel(
        partial(_kernel, plan),
        name="decode",
        # The heads of a token are adjacent in memory: programs that run at the same time read the same lines.
        grid=(H, plan.shares, B),
        compiler_params=compiler_params(plan.tiling),
        inputs={
            "q": BlockedArray(x.q, pl.BlockSpec((None, T, None, head_dim), lambda h, n, b: (b, 0, h, 0))),
            "key": all_heads(x.key),
            "value": all_heads(x.value),
            "key_scale": of_head(x.key_scale),
            "value_scale": of_head(x.value_scale),
            "bias": x.bias if x.bias is None else BlockedArray(x.bias, pl.BlockSpec((None, T, None, S), bias_index)),
            "visible_range": BlockedArray(x.visible_range, pl.BlockSpec((2, None), lambda h, n, b: (0, b))),
        },
        outputs={
            "o": BlockedArray(
                jax.ShapeDtypeStruct((B, plan.shares, T, H, value_dim), x.q.dtype if plan.shares == 1 else jnp.float32),
                pl.BlockSpec((None, None, T, None, value_dim), lambda h, n, b: (b, n, 0, h, 0)),
            ),
            "max": statistic,
            "sum": statistic,
        },
    )
    merged = _merge_shares(results["o"], results["max"], results["sum"])
    return merged[..., : plan.value_dim].astype(x.q.dtype)


def _merge_shares(o: jax.Array, score_max: jax.Array, exp_sum: jax.Array) -> jax.Array:
    """Merges the outputs of all shares by the statistics of their softmax.

    Args:
      o: [B, shares, T, H, Kv].
      score_max: float32 [B, shares, T, H].
      exp_sum: float32 [B, shares, T, H], 0 for a share without a visible key.

    Returns:
      [B, T, H, Kv].
    """
    if o.shape[1] == 1:
        return o[:, 0]
    # The share with the highest score has a weight of 1 or more.
    weights = exp_sum * jnp.exp2(score_max - score_max.max(axis=1, keepdims=True))
    return (o * (weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0))[..., None]).sum(axis=1)


def _kernel(plan: GpuDecodePlan, refs: Refs) -> None:
    rows, tile_keys, T = plan.rows, plan.tiling.keys, refs["q"].shape[0]
    head, (first, last) = pl.program_id(0), (refs["visible_range"][i] for i in range(2))
    share = pl.cdiv(jnp.maximum(last + 1 - first, 0), plan.shares)
    start = first + pl.program_id(1) * share
    end = jnp.minimum(start + share, last + 1)
    # Rows of the padded tile that are queries. Only a slice with a traced start may reach beyond the array.
    queries, is_query = pl.ds(pl.program_id(0) * 0, rows), jnp.arange(rows, dtype=jnp.int32) < T
    q = _load(refs["q"].at[queries, :], is_query[:, None])

    def add_tile(j, carry):
        score_max, exp_sum, acc = carry
        position = start + j * tile_keys
        keys, in_share = pl.ds(position, tile_keys), position + jnp.arange(tile_keys, dtype=jnp.int32) < end

        def load_head(name, width):
            columns = pl.ds(head * width, next_power_of_two(width))
            valid = in_share[:, None] & (jnp.arange(next_power_of_two(width)) < width)
            return _load(refs[name].at[keys, columns], valid).astype(q.dtype)

        scores = product(q, load_head("key", plan.head_dim).T)
        if "key_scale" in refs:
            scores = scores * _load(refs["key_scale"].at[keys], in_share)
        if "bias" in refs:
            scores = scores + _load(refs["bias"].at[queries, keys], is_query[:, None] & in_share)
        scores = jnp.where(in_share, scores, MASK_VALUE)
        new_max = jnp.maximum(score_max, scores.max(axis=1))
        correction, weights = jnp.exp2(score_max - new_max), jnp.exp2(scores - new_max[:, None])
        exp_sum = exp_sum * correction + weights.sum(axis=1)
        if "value_scale" in refs:
            weights = weights * _load(refs["value_scale"].at[keys], in_share)
        added = product(weights.astype(q.dtype), load_head("value", plan.value_dim))
        return new_max, exp_sum, acc * correction[:, None] + added

    carry = (
        jnp.full((rows,), MASK_VALUE, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros((rows, refs["o"].shape[1]), jnp.float32),
    )
    tiles = pl.cdiv(jnp.maximum(end - start, 0), tile_keys)
    score_max, exp_sum, acc = jax.lax.fori_loop(0, tiles, add_tile, carry)
    any_visible = score_max > NO_VISIBLE_KEY
    o = acc * jnp.where(any_visible, 1.0 / exp_sum, 0.0)[:, None]
    _store(refs["o"].at[queries, :], o, is_query[:, None])
    _store(refs["max"].at[queries], score_max, is_query)
    _store(refs["sum"].at[queries], jnp.where(any_visible, exp_sum, 0.0), is_query)


def _load(ref, mask: jax.Array) -> jax.Array:
    return plgpu.load(ref, mask=jnp.broadcast_to(mask, ref.shape), other=0)


def _store(ref, x: jax.Array, mask: jax.Array) -> None:
    plgpu.store(ref, x.astype(ref.dtype), mask=jnp.broadcast_to(mask, ref.shape))
