"""Forward pass of full-row attention on a TPU, and the score tiles that the backward pass shares.

The keys of a head are in VMEM as a whole: o = v softmax2(k'q + bias). For a block of queries all score tiles are
formed, then

    max = max over keys, P = exp2(scores - max), o = (v P) / sum over keys of P

so there is no running maximum to correct for. The statistics (max, 1/sum) of each query are residuals of the backward
pass; 1/sum is stored as zero for a query without a visible key, which makes its output and all its gradients zero.
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import NO_VISIBLE_KEY
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.tpu.tiles import (
    LANES,
    Index,
    Tile,
    TpuTiling,
    broadcast_to_lanes,
    compiler_params,
    keep_tile,
    keys_by_queries,
    mask_scores,
    run_software_pipelined,
    tile_over_queries,
    tile_positions,
    width_by_queries,
)


class FullRowOperands(NamedTuple):
    """The arrays that the kernels read; None where a call has no such part. T and S are padded to multiples of 128.

    Attributes:
      q: [B, H, K, T], scaled by scale * log2(e).
      k: [B, G, K, S].
      v: [B, G, Kv, S].
      key_bias: float32 [B, 1, S], 0 or MASK_VALUE.
      bias: float32 in units of log2; [B or 1, H or 1, S, T], or the distinct tiles of a Toeplitz bias,
        [H, N, size, size].
      random_bits: uint32 [B*H*3], the dropout bits of each head.
      start: int32 [B], the first query's position among the keys.
      query_segments: float32 [B, 1, T].
      key_segments: float32 [B, 1, S].
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array | None
    bias: jax.Array | None
    random_bits: jax.Array | None
    start: jax.Array | None
    query_segments: jax.Array | None
    key_segments: jax.Array | None


@dataclass(frozen=True)
class FullRowPlan:
    """Static description of one pass.

    Attributes:
      causal: Whether the mask is causal.
      toeplitz: Whether the bias is a Toeplitz one.
      rate: Dropout's rate.
      heads: Query heads of a grid step: whole groups that share a key head, or an equal part of one.
      group: Query heads that share a key head.
      tiling: Of the pass.
    """

    causal: bool
    toeplitz: bool
    rate: float
    heads: int
    group: int
    tiling: TpuTiling

    @property
    def key_heads(self) -> int:
        """Key heads of a grid step."""
        return max(1, self.heads // self.group)

    @property
    def heads_per_key_head(self) -> int:
        """Query heads of a grid step that share a key head."""
        return self.heads // self.key_heads

    @property
    def steps_per_key_head(self) -> int:
        """Grid steps whose query heads share a key head."""
        return max(1, self.group // self.heads)

    def key_head(self, head: jax.Array) -> Index:
        """The key head of a query head, both counted in the grid step."""
        return head if self.heads_per_key_head == 1 else jax.lax.div(head, self.heads_per_key_head)


class HeadIndex(NamedTuple):
    """The example and the head of a loop iteration among all of the call, and the number of heads."""

    example: jax.Array
    head: jax.Array
    num_heads: Index


def row_of_tiles(plan: FullRowPlan, refs: Refs, t0: int) -> list[Tile]:
    """The tiles of the block of queries at t0: under a causal mask none that lies entirely after it."""
    T, S = refs["q"].shape[-1], refs["k"].shape[-1]
    queries = min(plan.tiling.queries, T - t0)
    end = min(S, t0 + queries) if plan.causal and "start" not in refs else S
    return [Tile(s0, t0, min(plan.tiling.keys, end - s0), queries) for s0 in range(0, end, plan.tiling.keys)]


def score_tile(
    plan: FullRowPlan, refs: Refs, example: jax.Array, head: jax.Array, q: jax.Array, tile: Tile
) -> jax.Array:
    """The scores of one tile with bias and mask, in base 2.

    Args:
      plan: Of the pass.
      refs: Of the kernel.
      example: Index of the example.
      head: Index of the head in the grid step.
      q: [K, queries].
      tile: The tile.

    Returns:
      float32 [keys, queries].
    """
    scores = keys_by_queries(refs["k"][plan.key_head(head), :, tile.s0 : tile.s0 + tile.keys], q)
    if "bias" in refs:
        scores = scores + refs["bias"][bias_index(plan, refs, "bias", head, tile)]
    if "column" in refs:
        scores = scores + tile_over_queries(refs["column"][tile.s0 : tile.s0 + tile.keys], tile.queries)
    if "segment_column" in refs:
        of_keys = tile_over_queries(refs["segment_column"][tile.s0 : tile.s0 + tile.keys], tile.queries)
        of_queries = refs["query_segments"][:, tile.t0 : tile.t0 + tile.queries]
        scores = mask_scores(scores, of_keys == of_queries)
    if not plan.causal:
        return scores
    if "start" in refs:
        return _mask_future(scores, tile.s0, tile.t0 + refs["start"][example])
    strips = [(scores[a : a + LANES], tile.s0 + a) for a in range(0, tile.keys, LANES)]
    # Nothing is compared where all queries come after the strip.
    return jnp.concatenate(
        [_mask_future(x, s0, tile.t0) if s0 + LANES > tile.t0 + 1 else x for x, s0 in strips], axis=0
    )


def _mask_future(scores: jax.Array, s0: Index, t0: Index) -> jax.Array:
    """Masks the keys that come after their query."""
    s, t = tile_positions(scores.shape, s0, t0)
    return mask_scores(scores, s <= t)


def bias_index(plan: FullRowPlan, refs: Refs, name: str, head: jax.Array, tile: Tile) -> tuple:
    """Index of a tile's bias (or its gradient, by the ref's name) in the block of the grid step."""
    if plan.toeplitz:
        # The first of the distinct tiles is that of the first query and the last block of keys.
        first = -(-refs["k"].shape[-1] // plan.tiling.keys) - 1
        return head, first + (tile.t0 - tile.s0) // plan.tiling.keys, slice(tile.keys), slice(tile.queries)
    keys, queries = slice(tile.s0, tile.s0 + tile.keys), slice(tile.t0, tile.t0 + tile.queries)
    return head if refs[name].shape[0] > 1 else 0, keys, queries


def full_row_keep_tile(plan: FullRowPlan, refs: Refs, index: HeadIndex, tile: Tile) -> jax.Array:
    """Dropout's keep mask of a tile, bool [keys, queries]."""
    first = 3 * (index.example * index.num_heads + index.head)
    random_bits = [refs["random_bits"][first + i] for i in range(3)]
    return keep_tile(random_bits, tile.s0, tile.t0, (tile.keys, tile.queries), plan.rate)


def forward(plan: FullRowPlan, x: FullRowOperands) -> tuple[jax.Array, jax.Array]:
    """Runs the forward kernel: the output [B, H, Kv, T] in v.dtype and the statistics float32 [B, H, 2, T]."""
    B, H, _, T = x.q.shape
    Kv = x.v.shape[2]
    results = call_kernel(
        partial(_kernel, plan),
        name="short_forward",  # as in tests/pallas_kernels/tpu_budgets.json
        grid=(H // plan.heads, B),
        compiler_params=compiler_params("parallel", "parallel"),
        inputs=shared_inputs(plan, x),
        outputs={
            "o": BlockedArray(jax.ShapeDtypeStruct((B, H, Kv, T), x.v.dtype), heads_spec(plan, Kv, T)),
            "statistics": BlockedArray(jax.ShapeDtypeStruct((B, H, 2, T), jnp.float32), heads_spec(plan, 2, T)),
        },
        scratch=column_scratch(x),
    )
    return results["o"], results["statistics"]


def heads_spec(plan: FullRowPlan, width: int, length: int) -> pl.BlockSpec:
    """Whole matrices [width, length] of the grid step's query heads."""
    return pl.BlockSpec((None, plan.heads, width, length), lambda h, b: (b, h, 0, 0))


def key_heads_spec(plan: FullRowPlan, width: int, length: int) -> pl.BlockSpec:
    """Whole matrices [width, length] of the grid step's key heads."""
    steps = plan.steps_per_key_head

    def index(h, b):
        return b, h if steps == 1 else jax.lax.div(h, steps), 0, 0

    return pl.BlockSpec((None, plan.key_heads, width, length), index)


def shared_inputs(plan: FullRowPlan, x: FullRowOperands) -> dict[str, BlockedArray | None]:
    """The inputs that the forward and the backward kernel share."""
    whole = pl.BlockSpec(memory_space=pltpu.SMEM)
    return {
        "q": BlockedArray(x.q, heads_spec(plan, *x.q.shape[2:])),
        "k": BlockedArray(x.k, key_heads_spec(plan, *x.k.shape[2:])),
        "v": BlockedArray(x.v, key_heads_spec(plan, *x.v.shape[2:])),
        **{name: _row_of_example(getattr(x, name)) for name in ("key_bias", "query_segments", "key_segments")},
        "bias": x.bias if x.bias is None else BlockedArray(x.bias, bias_spec(plan, x.bias.shape)),
        "random_bits": x.random_bits if x.random_bits is None else BlockedArray(x.random_bits, whole),
        "start": x.start if x.start is None else BlockedArray(x.start, whole),
    }


def _row_of_example(x: jax.Array | None) -> BlockedArray | None:
    """The row of the grid step's example in [B, 1, N]."""
    return None if x is None else BlockedArray(x, pl.BlockSpec((None, 1, x.shape[-1]), lambda h, b: (b, 0, 0)))


def bias_spec(plan: FullRowPlan, shape: tuple[int, ...]) -> pl.BlockSpec:
    """The block of a bias of this shape, or of its gradient."""
    if plan.toeplitz:
        return pl.BlockSpec((plan.heads, *shape[1:]), lambda h, b: (h, 0, 0, 0))
    examples, heads = shape[:2]
    block = (None, plan.heads if heads > 1 else 1, *shape[2:])
    return pl.BlockSpec(block, lambda h, b: (b if examples > 1 else 0, h if heads > 1 else 0, 0, 0))


def column_scratch(x: FullRowOperands) -> dict:
    """The scratch buffers of `fill_columns`."""
    rows = {"column": x.key_bias, "segment_column": x.key_segments}
    return {name: pltpu.VMEM((row.shape[-1], LANES), jnp.float32) for name, row in rows.items() if row is not None}


def fill_columns(refs: Refs) -> None:
    """Broadcasts the key bias and the keys' segments over lanes, once per grid step."""
    for column, row in (("column", "key_bias"), ("segment_column", "key_segments")):
        if column in refs:
            refs[column][...] = broadcast_to_lanes(refs[row][...])


def _kernel(plan: FullRowPlan, refs: Refs) -> None:
    fill_columns(refs)
    example, first, num_heads = pl.program_id(1), pl.program_id(0) * plan.heads, pl.num_programs(0) * plan.heads

    def run_head(head, _):
        index, starts = HeadIndex(example, first + head, num_heads), range(0, refs["q"].shape[-1], plan.tiling.queries)
        run_software_pipelined((_query_task(plan, refs, head, index, t0) for t0 in starts), plan.tiling.lookahead)

    jax.lax.fori_loop(0, plan.heads, run_head, None)


def _query_task(plan: FullRowPlan, refs: Refs, head: jax.Array, index: HeadIndex, t0: int):
    """The output of one row of tiles, in two stages: all scores, then all that needs their maximum."""
    row = row_of_tiles(plan, refs, t0)
    columns = slice(t0, t0 + row[0].queries)
    q, v = refs["q"][head, :, columns], refs["v"]
    scores = [score_tile(plan, refs, index.example, head, q, tile) for tile in row]
    score_max = reduce(jnp.maximum, [tile.max(axis=0, keepdims=True) for tile in scores])
    yield
    out: jax.Array | float = 0.0
    exp_sum: jax.Array | float = 0.0
    for tile, values in zip(row, scores, strict=True):
        weights = jnp.exp2(values - score_max)
        exp_sum = exp_sum + weights.sum(axis=0, keepdims=True)
        if plan.rate:
            weights = jnp.where(full_row_keep_tile(plan, refs, index, tile), weights, 0.0)
        part = v[plan.key_head(head), :, tile.s0 : tile.s0 + tile.keys]
        out = out + width_by_queries(part, weights.astype(part.dtype))
    inverse_sum = jnp.where(score_max > NO_VISIBLE_KEY, 1.0 / exp_sum, 0.0)
    refs["o"][head, :, columns] = (out * (inverse_sum / (1.0 - plan.rate))).astype(refs["o"].dtype)
    refs["statistics"][head, :, columns] = jnp.concatenate([score_max, inverse_sum], axis=0)
