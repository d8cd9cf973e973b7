"""Backward pass of sliding-window attention on a TPU: one pass over the blocks of queries (`tiles.tile_gradients`).

The queries of `before + 1 + after` consecutive blocks see a block of keys. Its dk and dv accumulate in float32 in one
slot of a ring buffer, over the query heads that share the key head too; the last step of the block after which no query
sees it writes them out and clears the slot for the block that becomes visible next. So dk and dv trail behind by
`before` blocks, and the grid has as many blocks more. Those of the global keys accumulate over all steps of a key head.
"""

from collections.abc import Generator, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import LN2
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.tpu.sliding_window_forward import (
    SlidingWindowGlobalKV,
    SlidingWindowOperands,
    SlidingWindowPlan,
    SlidingWindowStep,
    append_ones,
    cost_of,
    current_step,
    global_keep_tile,
    global_score_tile,
    grid_of,
    key_head_spec,
    keys_spec,
    queries_spec,
    rows_of_tiles,
    run_section,
    score_tile,
    shared_inputs,
    tile_columns,
    tile_segments,
    window_keep_tile,
)
from pallas_kernels.tpu.tiles import (
    QueryBlock,
    Tile,
    keys_by_queries,
    load_query_block,
    run_software_pipelined,
    tile_gradients,
)


def backward(
    plan: SlidingWindowPlan,
    x: SlidingWindowOperands,
    global_kv: SlidingWindowGlobalKV | None,
    o: jax.Array,
    statistics: jax.Array,
    do: jax.Array,
) -> dict[str, jax.Array]:
    """Runs the backward kernel.

    Args:
      plan: Of the call.
      x: Of the forward pass.
      global_kv: The gathered global keys and values, or None.
      o: The output [B, H, Kv, T].
      statistics: float32 [B, H, 2, T].
      do: The cotangent of the output.

    Returns:
      "dq", "dk" and "dv" in the dtypes of q, k and v, and with global keys float32 "global_dk" [B, G, K, N] and
      "global_dv" [B, G, Kv, N].
    """
    B, G, K, _ = x.k.shape
    Kv = x.v.shape[2]
    outputs = {
        "dq": BlockedArray(jax.ShapeDtypeStruct(x.q.shape, x.q.dtype), queries_spec(plan, K)),
        "dk": BlockedArray(jax.ShapeDtypeStruct(x.k.shape, x.k.dtype), keys_spec(plan, K, -plan.before)),
        "dv": BlockedArray(jax.ShapeDtypeStruct(x.v.shape, x.v.dtype), keys_spec(plan, Kv, -plan.before)),
    }
    if global_kv is not None:
        for name, a in (("global_dk", global_kv.k), ("global_dv", global_kv.v)):
            outputs[name] = BlockedArray(jax.ShapeDtypeStruct(a.shape, jnp.float32), key_head_spec(*a.shape[2:]))
    views = len(plan.views)
    return call_kernel(
        partial(_kernel, plan),
        name="band_backward",  # as in tests/pallas_kernels/tpu_budgets.json
        **grid_of(plan, B, G, plan.key_blocks if plan.halo else plan.blocks + plan.before),
        cost=cost_of(plan, plan.backward, x, 3 * K + 2 * Kv),
        inputs={
            **shared_inputs(plan, x, global_kv),
            "o": BlockedArray(o, queries_spec(plan, Kv)),
            "do": BlockedArray(do, queries_spec(plan, Kv)),
            "statistics": BlockedArray(statistics, queries_spec(plan, 2)),
        },
        outputs=outputs,
        scratch={
            "dk_sum": pltpu.VMEM((views, K, plan.block), jnp.float32),
            "dv_sum": pltpu.VMEM((views, Kv, plan.block), jnp.float32),
        },
    )


def _kernel(plan: SlidingWindowPlan, refs: Refs) -> None:
    step = current_step(plan, refs)

    @pl.when(_and_member(step, 0, step.block == 0))
    def _():
        for name in ("dk_sum", "dv_sum", "global_dk", "global_dv"):
            if name in refs:
                refs[name][...] = jnp.zeros_like(refs[name])

    def run(before: int) -> None:
        tasks = (task for row in rows_of_tiles(plan, plan.backward, before) for task in _tile_tasks(step, row))
        run_software_pipelined(tasks, plan.backward.lookahead)

    run_section(step, run)
    if plan.group == 1:
        _write_finished_keys(step)
    else:
        pl.when(step.member == plan.group - 1)(partial(_write_finished_keys, step))

    if "global_dk" in refs:

        @pl.when(_and_member(step, plan.group - 1, step.block == plan.blocks - 1))
        def _():
            refs["global_dk"][...] *= LN2


def _and_member(step: SlidingWindowStep, member: int, condition: jax.Array) -> jax.Array:
    """The condition, and that the step's query head is this one of those that share its key head."""
    return condition if step.plan.group == 1 else jnp.logical_and(condition, step.member == member)


def _write_finished_keys(step: SlidingWindowStep) -> None:
    """Writes dk and dv of the block that no later query sees, and clears its slot."""
    refs, done = step.refs, _slot(step, -step.plan.before)
    refs["dk"][...] = (refs["dk_sum"][done] * LN2).astype(refs["dk"].dtype)
    refs["dv"][...] = refs["dv_sum"][done].astype(refs["dv"].dtype)
    for name in ("dk_sum", "dv_sum"):
        refs[name][done] = jnp.zeros(refs[name].shape[1:], jnp.float32)


def _slot(step: SlidingWindowStep, view: int) -> jax.Array:
    """The slot of a view's sums in the ring buffer."""
    return jax.lax.rem(step.block + step.plan.before + view, len(step.plan.views))


def _tile_tasks(step: SlidingWindowStep, tiles: list[Tile]) -> Iterator[Generator]:
    """One task for each tile of a row, that of the global keys first."""
    columns = slice(tiles[0].t0, tiles[0].t0 + tiles[0].queries)
    block = load_query_block(step.refs, (), columns, step.plan.rate)
    queries = append_ones(block.q)
    if "global_k" in step.refs:
        yield _global_task(step, block, queries, tiles[0])
    for tile in tiles:
        yield _tile_task(step, block, queries, tile, tile is tiles[-1])


def _tile_task(step: SlidingWindowStep, block: QueryBlock, queries: jax.Array, tile: Tile, is_last: bool) -> Generator:
    refs, k, v = step.refs, tile_columns(step, "k", tile), tile_columns(step, "v", tile)
    scores, dp = score_tile(step, queries, tile), keys_by_queries(v, block.do)
    yield
    keep = window_keep_tile(step, tile) if step.plan.rate else None
    dk, dv, _ = tile_gradients(block, k, scores, dp, keep)
    for part in tile_segments(step.plan, tile):
        slot = _slot(step, part.view)
        refs["dk_sum"][slot, :, part.in_view] += dk[:, part.in_tile]
        refs["dv_sum"][slot, :, part.in_view] += dv[:, part.in_tile]
    if is_last:
        refs["dq"][:, block.columns] = block.dq(refs["dq"].dtype)


def _global_task(step: SlidingWindowStep, block: QueryBlock, queries: jax.Array, tile: Tile) -> Generator:
    refs, k, v = step.refs, step.refs["global_k"][...], step.refs["global_v"][...]
    scores, dp = global_score_tile(step, queries, tile.t0), keys_by_queries(v, block.do)
    yield
    keep = global_keep_tile(step, tile.t0, tile.queries) if step.plan.rate else None
    dk, dv, _ = tile_gradients(block, k, scores, dp, keep)
    refs["global_dk"][...] += dk
    refs["global_dv"][...] += dv
