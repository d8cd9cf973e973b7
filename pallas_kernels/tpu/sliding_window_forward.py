"""Forward pass of sliding-window attention on a TPU, and the score tiles that the backward pass shares.

One softmax over the window and the global keys: o = v softmax2(k'q + bias). For a block of queries all score tiles are
formed, those of the window and one of the gathered global keys, then

    max = max over keys, P = exp2(scores - max), o = (v P) / sum over keys of P

so there is no running maximum to correct for. The statistics (max, 1/sum) of each query are residuals of the backward
pass; 1/sum is stored as zero for a query without a visible key, which makes its output and all its gradients zero.

The queries of a grid step are one block. Keys come as views, blocks of the same length around it: `before` of them, the
block itself, and `after`, with their index clamped to the sequence, so that keys and values need no padding. With a
`query_start` the keys begin before the first query and end after the last one (a halo), and have all these blocks. The
query heads that share a key head are adjacent steps, between which its views stay where they are. A window that reaches
the first key from every query (a causal call without a window) has several programs, from few views for the first
blocks to all for the last: `sections`. Positions
outside are masked by `key_bias`, which does have these blocks and is appended to every key: the queries have a one
there, so that the product that forms the scores adds it. Positions in a tile are relative to the first query of the
block, so that the window's edges are static and only the tiles that an edge crosses are compared with it.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import NO_VISIBLE_KEY
from pallas_kernels.dropout import keep_from_bits, key_bits, query_bits
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.tpu.tiles import (
    LANES,
    Index,
    Tile,
    TpuTiling,
    compiler_params,
    keep_tile,
    keys_by_queries,
    mask_scores,
    run_software_pipelined,
    tile_over_queries,
    tile_positions,
    width_by_queries,
)

# Rows of key_bias: the fewest that fill a register of bfloat16. The first is the bias, the others are zero.
BIAS_ROWS = 16
# Each section has its part of the program, so their number is bounded; four compute 10 of 16 possible quarters of a
# causal call's scores.
MAX_SECTIONS = 4


class SlidingWindowOperands(NamedTuple):
    """The arrays that the kernels read; None where a call has no such part. T is padded to a multiple of the block.

    Attributes:
      q: [B, H, K, T], scaled by scale * log2(e).
      k: [B, G, K, S].
      v: [B, G, Kv, S].
      key_bias: [B, BIAS_ROWS, (before + blocks + after) * block] or longer, in q.dtype, 0 or MASK_VALUE.
      global_at: int32 [B, N], positions of the global keys in ascending order, inside the sequence.
      global_bias: [B, BIAS_ROWS, N] in q.dtype, 0 or MASK_VALUE.
      global_column: int32 [B, N, LANES], global_at on every lane, where the kernel compares or hashes positions.
      random_bits: uint32 [B*H*3], the dropout bits of each head.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array
    global_at: jax.Array | None
    global_bias: jax.Array | None
    global_column: jax.Array | None
    random_bits: jax.Array | None


class SlidingWindowGlobalKV(NamedTuple):
    """The gathered global keys [B, G, K, N] and values [B, G, Kv, N]."""

    k: jax.Array
    v: jax.Array


@dataclass(frozen=True)
class SlidingWindowPlan:
    """Static description of a call.

    Attributes:
      left, right: Keys that a query sees before and after itself.
      causal: Whether the mask is causal.
      rate: Dropout's rate.
      group: Query heads that share a key head.
      block: Queries of a grid step and keys of a view.
      blocks: Number of blocks that cover the queries.
      start: Position of the first query among the keys; None: there are as many keys as queries.
      num_keys: S.
      forward, backward: Tiling of either pass.
    """

    left: int
    right: int
    causal: bool
    rate: float
    group: int
    block: int
    blocks: int
    start: int | None
    num_keys: int
    forward: TpuTiling
    backward: TpuTiling

    @property
    def halo(self) -> bool:
        """Whether there are keys before and after those of the queries, in blocks of their own."""
        return self.start is not None

    @property
    def before(self) -> int:
        """Views before the block."""
        views = -(-self.left // self.block)
        return views if self.halo else min(views, self.blocks - 1)

    @property
    def after(self) -> int:
        """Views after the block."""
        views = -(-self.right // self.block)
        return views if self.halo else min(views, self.blocks - 1)

    @property
    def lead(self) -> int:
        """Blocks of keys before the first block of queries."""
        return self.before if self.halo else 0

    @property
    def front(self) -> int:
        """Padding before the first key where keys have all blocks that the queries view."""
        return self.before * self.block - (self.start or 0)

    @property
    def key_blocks(self) -> int:
        """Number of blocks that cover the keys; with a halo, all that the queries view and those after."""
        if not self.halo:
            return self.blocks
        return max(self.before + self.blocks + self.after, -(-(self.front + self.num_keys) // self.block))

    @property
    def sections(self) -> list[tuple[int, int, int]]:
        """(first block, end, views before the block) of the blocks of queries that share a program."""
        if self.halo or self.before < self.blocks - 1:
            return [(0, self.blocks, self.before)]
        ends = sorted({self.blocks * (i + 1) // MAX_SECTIONS for i in range(MAX_SECTIONS)} - {0})
        return [(start, end, end - 1) for start, end in pairwise([0, *ends])]

    @property
    def views(self) -> range:
        """Visible blocks of keys, relative to the block of queries."""
        return range(-self.before, self.after + 1)


class TileSegment(NamedTuple):
    """Those keys of a tile that lie in one view: their slices in the view and in the tile."""

    view: int
    in_view: slice
    in_tile: slice


def rows_of_tiles(plan: SlidingWindowPlan, tiling: TpuTiling, before: int) -> list[list[Tile]]:
    """For each part of the block's queries the tiles that cover their window, in whole registers.

    Args:
      plan: Of the call.
      tiling: Of the pass.
      before: Views before the block, of which earlier ones hold no key.

    Returns:
      A list of tiles for each part.
    """
    rows = []
    for t0 in range(0, plan.block, tiling.queries):
        queries = min(tiling.queries, plan.block - t0)
        first = max((t0 - plan.left) // LANES * LANES, -before * plan.block)
        end = min(-(-(t0 + queries + plan.right) // LANES) * LANES, (1 + plan.after) * plan.block)
        rows.append([Tile(s0, t0, min(tiling.keys, end - s0), queries) for s0 in range(first, end, tiling.keys)])
    return rows


def tile_segments(plan: SlidingWindowPlan, tile: Tile) -> list[TileSegment]:
    """A tile's keys, view by view."""
    segments = []
    for view in plan.views:
        start = view * plan.block
        first, end = max(tile.s0, start), min(tile.s0 + tile.keys, start + plan.block)
        if first < end:
            segments.append(TileSegment(view, slice(first - start, end - start), slice(first - tile.s0, end - tile.s0)))
    return segments


class SlidingWindowStep(NamedTuple):
    """One step of the grid.

    The indices are read once, at the top of the kernel: JAX's plain interpreter of kernels has no `program_id` inside a
    branch.

    Attributes:
      plan: Of the call.
      refs: Of the kernel.
      block: Index of the block of queries.
      member: Index of the query head among those that share its key head.
      head: Index of the query head among those of all examples.
    """

    plan: SlidingWindowPlan
    refs: Refs
    block: jax.Array
    member: Index
    head: jax.Array

    @property
    def first_query(self) -> jax.Array:
        """The position of the block's first query in the sequence."""
        return self.block * self.plan.block


def current_step(plan: SlidingWindowPlan, refs: Refs) -> SlidingWindowStep:
    """The step of the grid that a kernel runs."""
    key_head = pl.program_id(1) * pl.num_programs(0) + pl.program_id(0)
    member = pl.program_id(3) if plan.group > 1 else 0
    return SlidingWindowStep(plan, refs, pl.program_id(2), member, key_head * plan.group + member)


def view_name(name: str, view: int) -> str:
    """The name of the ref of one view of an operand."""
    return f"{name}{view:+d}"


def tile_columns(step: SlidingWindowStep, name: str, tile: Tile) -> jax.Array:
    """[width, keys]: the columns of a tile, out of the views of an operand."""
    return jnp.concatenate(
        [step.refs[view_name(name, part.view)][:, part.in_view] for part in tile_segments(step.plan, tile)], axis=1
    )


def append_ones(q: jax.Array) -> jax.Array:
    """The queries [K, queries] with the rows that the bias rows are multiplied with."""
    return jnp.concatenate([q, jnp.ones((BIAS_ROWS, q.shape[1]), q.dtype)], axis=0)


def score_tile(step: SlidingWindowStep, q: jax.Array, tile: Tile) -> jax.Array:
    """float32 [keys, queries]: the scores of one tile with bias and mask, in base 2. q: of `append_ones`."""
    plan = step.plan
    start = pl.multiple_of(step.first_query + (plan.before * plan.block + tile.s0), LANES)
    bias = step.refs["key_bias"][:, pl.ds(start, tile.keys)]
    scores = keys_by_queries(jnp.concatenate([tile_columns(step, "k", tile), bias], axis=0), q)
    strips = [
        _mask_outside(plan, scores[a : a + LANES], tile.s0 + a, tile.t0, tile.queries)
        for a in range(0, tile.keys, LANES)
    ]
    return jnp.concatenate(strips, axis=0)


def _mask_outside(plan: SlidingWindowPlan, strip: jax.Array, s0: int, t0: int, queries: int) -> jax.Array:
    """Masks keys outside the window; nothing is compared where all queries see all keys of the strip."""
    s, t = tile_positions(strip.shape, s0, t0)
    if s0 < t0 + queries - 1 - plan.left:
        strip = mask_scores(strip, s >= t - plan.left)
    if s0 + LANES - 1 > t0 + plan.right:
        strip = mask_scores(strip, s <= t + plan.right)
    return strip


def global_score_tile(step: SlidingWindowStep, q: jax.Array, t0: int) -> jax.Array:
    """float32 [N, queries]: the scores of the global keys. q: of `append_ones`."""
    refs = step.refs
    scores = keys_by_queries(jnp.concatenate([refs["global_k"][...], refs["global_bias"][...]], axis=0), q)
    if step.plan.causal:
        _, t = tile_positions(scores.shape, 0, step.first_query + t0 + (step.plan.start or 0))
        scores = mask_scores(scores, tile_over_queries(refs["global_column"][...], scores.shape[1]) <= t)
    return scores


def window_keep_tile(step: SlidingWindowStep, tile: Tile) -> jax.Array:
    """Dropout's keep mask of a tile of the window, bool [keys, queries]."""
    t0, shape = step.first_query + tile.t0, (tile.keys, tile.queries)
    s0 = step.first_query + tile.s0 + (step.plan.start or 0)
    return keep_tile(_random_bits(step), s0, t0, shape, step.plan.rate)


def global_keep_tile(step: SlidingWindowStep, t0: int, queries: int) -> jax.Array:
    """Dropout's keep mask of the global keys, bool [N, queries]."""
    head, *seed = _random_bits(step)
    t = step.first_query + t0 + jax.lax.broadcasted_iota(jnp.int32, (1, queries), 1)
    first, second = query_bits(head, seed, t.astype(jnp.uint32))
    columns = key_bits(tile_over_queries(step.refs["global_column"][...], queries).astype(jnp.uint32))
    return keep_from_bits(first, second, columns, step.plan.rate)


def _random_bits(step: SlidingWindowStep) -> list[jax.Array]:
    """The three uint32 of this head."""
    return [step.refs["random_bits"][3 * step.head + i] for i in range(3)]


def forward(
    plan: SlidingWindowPlan, x: SlidingWindowOperands, global_kv: SlidingWindowGlobalKV | None
) -> tuple[jax.Array, jax.Array]:
    """Runs the forward kernel: the output [B, H, Kv, T] in v.dtype and the statistics float32 [B, H, 2, T]."""
    B, H, _, T = x.q.shape
    Kv = x.v.shape[2]
    results = call_kernel(
        partial(_kernel, plan),
        name="band_forward",  # as in tests/pallas_kernels/tpu_budgets.json
        **grid_of(plan, B, x.k.shape[1], plan.blocks),
        cost=cost_of(plan, plan.forward, x, x.q.shape[2] + Kv),
        inputs=shared_inputs(plan, x, global_kv),
        outputs={
            "o": BlockedArray(jax.ShapeDtypeStruct((B, H, Kv, T), x.v.dtype), queries_spec(plan, Kv)),
            "statistics": BlockedArray(jax.ShapeDtypeStruct((B, H, 2, T), jnp.float32), queries_spec(plan, 2)),
        },
        scratch={},
    )
    return results["o"], results["statistics"]


def grid_of(plan: SlidingWindowPlan, B: int, G: int, steps: int) -> dict[str, Any]:
    """The grid of a pass: key heads, examples, blocks and, where they are several, the query heads of a key head."""
    if plan.group == 1:
        return {"grid": (G, B, steps), "compiler_params": compiler_params("parallel", "parallel", "arbitrary")}
    params = compiler_params("parallel", "parallel", "arbitrary", "arbitrary")
    return {"grid": (G, B, steps, plan.group), "compiler_params": params}


# The index maps below take the indices of the grid: the key head g, the example b, the block i and, where there is such
# an axis, the query head among those of the key head, `member`.


def cost_of(
    plan: SlidingWindowPlan, tiling: TpuTiling, x: SlidingWindowOperands, widths: int
) -> pl.CostEstimate | None:
    """Cost of a pass for XLA, which takes several sections for one program after the other; None with one section.

    Args:
      plan: Of the call.
      tiling: Of the pass.
      x: Of the call.
      widths: The sum of the head widths of all products of a tile.

    Returns:
      The products of the tiles that the sections compute, and every array once.
    """
    if len(plan.sections) == 1:
        return None
    pairs = 0 if x.global_at is None else plan.blocks * plan.block * x.global_at.shape[1]
    for start, end, before in plan.sections:
        rows = rows_of_tiles(plan, tiling, before)
        pairs += (end - start) * sum(tile.keys * tile.queries for row in rows for tile in row)
    heads = x.q.shape[0] * x.q.shape[1]
    return pl.CostEstimate(
        flops=2 * heads * pairs * widths,
        transcendentals=heads * pairs,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in (x.q, x.q, x.k, x.v)),
    )


def queries_spec(plan: SlidingWindowPlan, width: int) -> pl.BlockSpec:
    """[width, block] of a query head and the grid step's block, or the last block in steps after that."""
    last = plan.blocks - 1

    def index(g, b, i, *member):
        # After the last block the index stays what it was, else an output would be written once more.
        h = g * plan.group + jnp.where(i > last, plan.group - 1, member[0]) if member else g
        return b, h, 0, jnp.clip(i, 0, last)

    return pl.BlockSpec((None, None, width, plan.block), index)


def keys_spec(plan: SlidingWindowPlan, width: int, view: int) -> pl.BlockSpec:
    """[width, block] of a key head, `view` blocks after that of the grid step and clamped to the keys."""
    first, last = plan.lead + view, plan.key_blocks - 1
    return pl.BlockSpec(
        (None, None, width, plan.block), lambda g, b, i, *member: (b, g, 0, jnp.clip(i + first, 0, last))
    )


def key_head_spec(width: int, length: int) -> pl.BlockSpec:
    """The whole matrix [width, length] of a key head."""
    return pl.BlockSpec((None, None, width, length), lambda g, b, i, *member: (b, g, 0, 0))


def example_spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    """All of an example of an array of this shape."""
    return pl.BlockSpec((None, *shape[1:]), lambda g, b, i, *member: (b, *[0] * (len(shape) - 1)))


def shared_inputs(
    plan: SlidingWindowPlan, x: SlidingWindowOperands, global_kv: SlidingWindowGlobalKV | None
) -> dict[str, BlockedArray | None]:
    """The inputs that the forward and the backward kernel share."""
    inputs: dict[str, BlockedArray | None] = {
        "q": BlockedArray(x.q, queries_spec(plan, x.q.shape[2])),
        "key_bias": BlockedArray(x.key_bias, example_spec(x.key_bias.shape)),
    }
    for view in plan.views:
        inputs[view_name("k", view)] = BlockedArray(x.k, keys_spec(plan, x.k.shape[2], view))
        inputs[view_name("v", view)] = BlockedArray(x.v, keys_spec(plan, x.v.shape[2], view))
    if global_kv is not None:
        assert x.global_bias is not None
        inputs["global_k"] = BlockedArray(global_kv.k, key_head_spec(*global_kv.k.shape[2:]))
        inputs["global_v"] = BlockedArray(global_kv.v, key_head_spec(*global_kv.v.shape[2:]))
        inputs["global_bias"] = BlockedArray(x.global_bias, example_spec(x.global_bias.shape))
        if x.global_column is not None:
            inputs["global_column"] = BlockedArray(x.global_column, example_spec(x.global_column.shape))
    if x.random_bits is not None:
        inputs["random_bits"] = BlockedArray(x.random_bits, pl.BlockSpec(memory_space=pltpu.SMEM))
    return inputs


def _kernel(plan: SlidingWindowPlan, refs: Refs) -> None:
    step = current_step(plan, refs)

    def run(before: int) -> None:
        tasks = (_query_task(step, row) for row in rows_of_tiles(plan, plan.forward, before))
        run_software_pipelined(tasks, plan.forward.lookahead)

    if len(plan.sections) == 1:
        run(plan.before)
    else:
        run_section(step, run)


def run_section(step: SlidingWindowStep, run: Callable[[int], None]) -> None:
    """Calls `run` with the views before the block of the step's section; none after the last block of queries."""
    for start, end, before in step.plan.sections:
        in_section = step.block < end
        if start:
            in_section = jnp.logical_and(step.block >= start, in_section)
        pl.when(in_section)(partial(run, before))


def _query_task(step: SlidingWindowStep, row: list[Tile]) -> Generator:
    """The output of one row of tiles, in two stages: all scores, then all that needs their maximum."""
    refs, rate, t0, queries = step.refs, step.plan.rate, row[0].t0, row[0].queries
    columns = slice(t0, t0 + queries)
    q = append_ones(refs["q"][:, columns])
    scores = [score_tile(step, q, tile) for tile in row]
    values: list[Callable[[], jax.Array]] = [partial(tile_columns, step, "v", tile) for tile in row]
    keep_masks = [partial(window_keep_tile, step, tile) for tile in row]
    if "global_k" in refs:
        scores.append(global_score_tile(step, q, t0))
        values.append(lambda: refs["global_v"][...])
        keep_masks.append(partial(global_keep_tile, step, t0, queries))
    score_max = reduce(jnp.maximum, [tile.max(axis=0, keepdims=True) for tile in scores])
    yield
    out: jax.Array | float = 0.0
    exp_sum: jax.Array | float = 0.0
    for tile_scores, v, keep_mask in zip(scores, values, keep_masks, strict=True):
        weights = jnp.exp2(tile_scores - score_max)
        exp_sum = exp_sum + weights.sum(axis=0, keepdims=True)
        if rate:
            weights = jnp.where(keep_mask(), weights, 0.0)
        out = out + width_by_queries(v(), weights.astype(refs["o"].dtype))
    inverse_sum = jnp.where(score_max > NO_VISIBLE_KEY, 1.0 / exp_sum, 0.0)
    refs["o"][:, columns] = (out * (inverse_sum / (1.0 - rate))).astype(refs["o"].dtype)
    refs["statistics"][:, columns] = jnp.concatenate([score_max, inverse_sum], axis=0)
