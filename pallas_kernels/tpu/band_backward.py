"""The gradient of `band_forward` in one pass over the blocks of queries: a tile's part of it is in `gradient`.

A block of keys is met by the queries of `before + 1 + after` steps, one after the other. Its dk and dv add up in
float32 in one slot of a ring; the step in which no later query sees it writes it out and clears the slot for the block
that comes into sight next. So dk and dv trail behind by `before` blocks, and the grid has as many steps more. Those of
the global keys add up over all steps of a head.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.kernel_call import LN2, Operand, call_kernel
from pallas_kernels.tpu.band_forward import operands, per_block, per_head
from pallas_kernels.tpu.band_plan import (
    Operands,
    Plan,
    Step,
    Tile,
    global_tile,
    globals_kept,
    kept,
    keys_of,
    parts,
    rows_of_tiles,
    score_tile,
    this_step,
    with_ones,
)
from pallas_kernels.tpu.gradient import Row, add_tile, row_of
from pallas_kernels.tpu.stagger import staggered
from pallas_kernels.tpu.tiles import keys_by_queries, parameters


def backward(plan: Plan, x: Operands, global_k, global_v, o, statistics, do) -> dict[str, jax.Array]:
    """Gradients "dq", "dk", "dv" in their dtypes, and float32 "global_dk", "global_dv" where there are global keys."""
    B, H, K, _ = x.q.shape
    Kv = x.v.shape[2]
    outputs = {
        "dq": Operand(jax.ShapeDtypeStruct(x.q.shape, x.q.dtype), per_block(plan, K)),
        "dk": Operand(jax.ShapeDtypeStruct(x.k.shape, x.k.dtype), per_block(plan, K, -plan.before)),
        "dv": Operand(jax.ShapeDtypeStruct(x.v.shape, x.v.dtype), per_block(plan, Kv, -plan.before)),
    }
    if global_k is not None:
        G = global_k.shape[-1]
        outputs["global_dk"] = Operand(jax.ShapeDtypeStruct((B, H, K, G), jnp.float32), per_head(K, G))
        outputs["global_dv"] = Operand(jax.ShapeDtypeStruct((B, H, Kv, G), jnp.float32), per_head(Kv, G))
    views = len(plan.views)
    return call_kernel(
        partial(_kernel, plan),
        name="band_backward",
        grid=(H, B, plan.blocks + plan.before),
        compiler_params=parameters("parallel", "parallel", "arbitrary"),
        inputs={
            **operands(plan, x, global_k, global_v),
            "o": Operand(o, per_block(plan, Kv)),
            "do": Operand(do, per_block(plan, Kv)),
            "statistics": Operand(statistics, per_block(plan, 2)),
        },
        outputs=outputs,
        scratch={
            "sum_k": pltpu.VMEM((views, K, plan.block), jnp.float32),
            "sum_v": pltpu.VMEM((views, Kv, plan.block), jnp.float32),
        },
    )


def _kernel(plan: Plan, refs) -> None:
    step = this_step(plan, refs)

    @pl.when(step.block == 0)
    def _():
        for name in ("sum_k", "sum_v", "global_dk", "global_dv"):
            if name in refs:
                refs[name][...] = jnp.zeros_like(refs[name])

    @pl.when(step.block < plan.blocks)
    def _():
        jobs = (job for row in rows_of_tiles(plan, plan.backward) for job in _jobs(step, row))
        staggered(jobs, plan.backward.ahead)

    done = _slot(step, -plan.before)
    refs["dk"][...] = (refs["sum_k"][done] * LN2).astype(refs["dk"].dtype)
    refs["dv"][...] = refs["sum_v"][done].astype(refs["dv"].dtype)
    for name in ("sum_k", "sum_v"):
        refs[name][done] = jnp.zeros(refs[name].shape[1:], jnp.float32)

    if "global_dk" in refs:

        @pl.when(step.block == plan.blocks - 1)
        def _():
            refs["global_dk"][...] *= LN2


def _slot(step: Step, view: int):
    """Where in the ring the sums of a view are."""
    return jax.lax.rem(step.block + step.plan.before + view, len(step.plan.views))


def _jobs(step: Step, tiles: list[Tile]):
    """One job for each tile of a row, the one of the global keys first."""
    mine = slice(tiles[0].t0, tiles[0].t0 + tiles[0].queries)
    row = row_of(step.refs, (), mine, step.plan.rate)
    queries = with_ones(row.q)
    if "global_k" in step.refs:
        yield _global_job(step, row, queries, tiles[0])
    for tile in tiles:
        yield _job(step, row, queries, tile, tile is tiles[-1])


def _job(step: Step, row: Row, queries, tile: Tile, last: bool):
    refs, k, v = step.refs, keys_of(step, "k", tile), keys_of(step, "v", tile)
    scores, slopes = score_tile(step, queries, tile), keys_by_queries(v, row.do)
    yield
    dk, dv, _ = add_tile(row, k, scores, slopes, kept(step, tile) if step.plan.rate else None)
    for part in parts(step.plan, tile):
        slot = _slot(step, part.view)
        refs["sum_k"][slot, :, part.there] += dk[:, part.here]
        refs["sum_v"][slot, :, part.there] += dv[:, part.here]
    if last:
        refs["dq"][:, row.mine] = (row.dq * LN2).astype(refs["dq"].dtype)


def _global_job(step: Step, row: Row, queries, tile: Tile):
    refs, k, v = step.refs, step.refs["global_k"][...], step.refs["global_v"][...]
    scores, slopes = global_tile(step, queries, tile.t0), keys_by_queries(v, row.do)
    yield
    keep = globals_kept(step, tile.t0, tile.queries) if step.plan.rate else None
    dk, dv, _ = add_tile(row, k, scores, slopes, keep)
    refs["global_dk"][...] += dk
    refs["global_dv"][...] += dv
