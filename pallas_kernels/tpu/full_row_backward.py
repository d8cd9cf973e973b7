"""Backward pass of full-row attention on a TPU: one pass over the tiles of a head (`tiles.tile_gradients`).

dk and dv of a key head accumulate in float32 over the query heads of a grid step, and XLA adds up those of several
steps; the gradient of a bias accumulates over all examples that share it.
"""

from collections.abc import Generator, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import LN2
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel
from pallas_kernels.tpu.full_row_forward import (
    FullRowOperands,
    FullRowPlan,
    HeadIndex,
    bias_index,
    bias_spec,
    column_scratch,
    fill_columns,
    full_row_keep_tile,
    heads_spec,
    key_heads_spec,
    row_of_tiles,
    score_tile,
    shared_inputs,
)
from pallas_kernels.tpu.tiles import (
    QueryBlock,
    Tile,
    compiler_params,
    keys_by_queries,
    load_query_block,
    run_software_pipelined,
    tile_gradients,
)


def backward(
    plan: FullRowPlan, x: FullRowOperands, o: jax.Array, statistics: jax.Array, do: jax.Array, bias_gradient: bool
) -> dict[str, jax.Array]:
    """Runs the backward kernel.

    Args:
      plan: Of the backward pass.
      x: Of the forward pass.
      o: Its output [B, H, Kv, T].
      statistics: Its statistics, float32 [B, H, 2, T].
      do: The cotangent of the output.
      bias_gradient: Whether the gradient of the bias is wanted.

    Returns:
      "dq", "dk" and "dv" in the dtypes of q, k and v, and float32 "dbias" where it is wanted: per head, summed over the
      examples that share it.
    """
    (B, H, K, T), (Kv, S) = x.q.shape, x.v.shape[2:]
    outputs = {"dq": BlockedArray(jax.ShapeDtypeStruct(x.q.shape, x.q.dtype), heads_spec(plan, K, T))}
    for name, a in (("dk", x.k), ("dv", x.v)):
        outputs[name] = BlockedArray(jax.ShapeDtypeStruct(a.shape, a.dtype), key_heads_spec(plan, *a.shape[2:]))
        if plan.steps_per_key_head > 1:
            parts = jax.ShapeDtypeStruct((B, H // plan.heads, *a.shape[2:]), jnp.float32)
            outputs[name] = BlockedArray(parts, pl.BlockSpec((None, 1, *a.shape[2:]), lambda h, b: (b, h, 0, 0)))
    shared_bias = False
    if bias_gradient:
        assert x.bias is not None
        shape = x.bias.shape if plan.toeplitz else (x.bias.shape[0], H, S, T)
        outputs["dbias"] = BlockedArray(jax.ShapeDtypeStruct(shape, jnp.float32), bias_spec(plan, shape))
        shared_bias = plan.toeplitz or x.bias.shape[0] == 1
    grads = call_kernel(
        partial(_kernel, plan, shared_bias),
        name="short_backward",  # as in tests/pallas_kernels/tpu_budgets.json
        grid=(H // plan.heads, B),
        compiler_params=compiler_params("parallel", "arbitrary" if bias_gradient else "parallel"),
        inputs={
            **shared_inputs(plan, x),
            "o": BlockedArray(o, heads_spec(plan, Kv, T)),
            "do": BlockedArray(do, heads_spec(plan, Kv, T)),
            "statistics": BlockedArray(statistics, heads_spec(plan, 2, T)),
        },
        outputs=outputs,
        scratch={
            **column_scratch(x),
            "dk_sum": pltpu.VMEM((K, S), jnp.float32),
            "dv_sum": pltpu.VMEM((Kv, S), jnp.float32),
        },
    )
    if plan.steps_per_key_head > 1:
        for name, a in (("dk", x.k), ("dv", x.v)):
            by_step = grads[name].reshape(*a.shape[:2], plan.steps_per_key_head, *a.shape[2:])
            grads[name] = by_step.sum(axis=2).astype(a.dtype)
    return grads


def _kernel(plan: FullRowPlan, shared_bias: bool, refs: Refs) -> None:
    fill_columns(refs)
    example, first, num_heads = pl.program_id(1), pl.program_id(0) * plan.heads, pl.num_programs(0) * plan.heads
    if "dbias" in refs:

        @pl.when(jnp.logical_or(example == 0, not shared_bias))
        def _():
            refs["dbias"][...] = jnp.zeros_like(refs["dbias"])

    def run_query_head(head, _):
        tasks = _tile_tasks(plan, refs, head, HeadIndex(example, first + head, num_heads))
        run_software_pipelined(tasks, plan.tiling.lookahead)

    def run_key_head(key_head, _):
        for name in ("dk_sum", "dv_sum"):
            refs[name][...] = jnp.zeros_like(refs[name])
        if (count := plan.heads_per_key_head) == 1:
            run_query_head(key_head, None)
        else:
            jax.lax.fori_loop(0, count, lambda i, _: run_query_head(key_head * count + i, None), None)
        refs["dk"][key_head] = (refs["dk_sum"][...] * LN2).astype(refs["dk"].dtype)
        refs["dv"][key_head] = refs["dv_sum"][...].astype(refs["dv"].dtype)

    jax.lax.fori_loop(0, plan.key_heads, run_key_head, None)


def _tile_tasks(plan: FullRowPlan, refs: Refs, head: jax.Array, index: HeadIndex) -> Iterator[Generator]:
    """One task for each tile of a head, in two stages: scores and dP, then the gradients."""
    for t0 in range(0, refs["q"].shape[-1], plan.tiling.queries):
        tiles = row_of_tiles(plan, refs, t0)
        block = load_query_block(refs, (head,), slice(t0, t0 + tiles[0].queries), plan.rate)
        for tile in tiles:
            yield _tile_task(plan, refs, head, index, block, tile, tile is tiles[-1])


def _tile_task(
    plan: FullRowPlan, refs: Refs, head: jax.Array, index: HeadIndex, block: QueryBlock, tile: Tile, is_last: bool
) -> Generator:
    keys = slice(tile.s0, tile.s0 + tile.keys)
    k, v = (refs[name][plan.key_head(head), :, keys] for name in ("k", "v"))
    scores, dp = score_tile(plan, refs, index.example, head, block.q, tile), keys_by_queries(v, block.do)
    yield
    keep = full_row_keep_tile(plan, refs, index, tile) if plan.rate else None
    dk, dv, ds = tile_gradients(block, k, scores, dp, keep)
    if "dbias" in refs:
        refs["dbias"][bias_index(plan, refs, "dbias", head, tile)] += ds * LN2
    refs["dk_sum"][:, keys] += dk
    refs["dv_sum"][:, keys] += dv
    if is_last:
        refs["dq"][head, :, block.columns] = block.dq(refs["dq"].dtype)
