"""Attention to a window and to the global keys, one softmax over both: o = v softmax2(k'q + bias).

For a block of queries all score tiles are formed, those of the window and one of the gathered global keys, then

    top = max over keys, P = exp2(scores - top), o = (v P) / sum over keys of P

so there is no running maximum to correct for. The statistics (top, 1/sum) of each query are kept for the gradient; the
inverse is zero for a query that sees no key, which makes its output and all its gradients zero.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.kernel_call import SEES_NOTHING, Operand, call_kernel
from pallas_kernels.tpu.band_plan import (
    BIAS_ROWS,
    Operands,
    Plan,
    Step,
    Tile,
    global_tile,
    globals_kept,
    in_view,
    kept,
    keys_of,
    rows_of_tiles,
    score_tile,
    this_step,
    with_ones,
)
from pallas_kernels.tpu.stagger import staggered
from pallas_kernels.tpu.tiles import LANES, parameters, width_by_queries


def forward(plan: Plan, x: Operands, global_k, global_v) -> tuple[jax.Array, jax.Array]:
    """Output [B,H,Kv,T] in v's dtype and statistics float32 [B,H,2,T]. global_k, global_v: [B,H,K or Kv,G] or None."""
    B, H, _, T = x.q.shape
    Kv = x.v.shape[2]
    results = call_kernel(
        partial(_kernel, plan),
        name="band_forward",
        grid=(H, B, plan.blocks),
        compiler_params=parameters("parallel", "parallel", "arbitrary"),
        inputs=operands(plan, x, global_k, global_v),
        outputs={
            "o": Operand(jax.ShapeDtypeStruct((B, H, Kv, T), x.v.dtype), per_block(plan, Kv)),
            "statistics": Operand(jax.ShapeDtypeStruct((B, H, 2, T), jnp.float32), per_block(plan, 2)),
        },
        scratch={},
    )
    return results["o"], results["statistics"]


def per_block(plan: Plan, width: int, view: int = 0) -> pl.BlockSpec:
    """[width, block] of a head, `view` blocks after that of the grid step and held inside the sequence."""
    last = plan.blocks - 1
    return pl.BlockSpec((None, None, width, plan.block), lambda h, b, i: (b, h, 0, jnp.clip(i + view, 0, last)))


def per_head(width: int, length: int) -> pl.BlockSpec:
    """The whole matrix [width, length] of a head."""
    return pl.BlockSpec((None, None, width, length), lambda h, b, i: (b, h, 0, 0))


def operands(plan: Plan, x: Operands, global_k, global_v) -> dict[str, Operand | None]:
    """The inputs that the forward and the backward kernel share."""
    inputs = {"q": Operand(x.q, per_block(plan, x.q.shape[2]))}
    inputs["key_bias"] = Operand(x.key_bias, pl.BlockSpec((None, *x.key_bias.shape[1:]), lambda h, b, i: (b, 0, 0)))
    for view in plan.views:
        inputs[in_view("k", view)] = Operand(x.k, per_block(plan, x.k.shape[2], view))
        inputs[in_view("v", view)] = Operand(x.v, per_block(plan, x.v.shape[2], view))
    if global_k is not None:
        G = global_k.shape[-1]
        inputs["global_k"] = Operand(global_k, per_head(global_k.shape[2], G))
        inputs["global_v"] = Operand(global_v, per_head(global_v.shape[2], G))
        inputs["global_bias"] = Operand(x.global_bias, pl.BlockSpec((None, BIAS_ROWS, G), lambda h, b, i: (b, 0, 0)))
        if x.global_column is not None:
            block = pl.BlockSpec((None, G, LANES), lambda h, b, i: (b, 0, 0))
            inputs["global_column"] = Operand(x.global_column, block)
    if x.words is not None:
        inputs["words"] = Operand(x.words, pl.BlockSpec(memory_space=pltpu.SMEM))
    return inputs


def _kernel(plan: Plan, refs) -> None:
    step = this_step(plan, refs)
    staggered((_queries(step, row) for row in rows_of_tiles(plan, plan.forward)), plan.forward.ahead)


def _queries(step: Step, row: list[Tile]):
    """The output of one row of tiles, in two halves: all scores, then all that needs their maximum."""
    refs, rate, t0, queries = step.refs, step.plan.rate, row[0].t0, row[0].queries
    mine = slice(t0, t0 + queries)
    q = with_ones(refs["q"][:, mine])
    scores = [score_tile(step, q, tile) for tile in row]
    values = [partial(keys_of, step, "v", tile) for tile in row]
    survivors = [partial(kept, step, tile) for tile in row]
    if "global_k" in refs:
        scores.append(global_tile(step, q, t0))
        values.append(lambda: refs["global_v"][...])
        survivors.append(partial(globals_kept, step, t0, queries))
    top = reduce(jnp.maximum, [tile.max(axis=0, keepdims=True) for tile in scores])
    yield
    out, total = 0.0, 0.0
    for tile, v, survives in zip(scores, values, survivors, strict=True):
        weights = jnp.exp2(tile - top)
        total = total + weights.sum(axis=0, keepdims=True)
        if rate:
            weights = jnp.where(survives(), weights, 0.0)
        out = out + width_by_queries(v(), weights.astype(refs["o"].dtype))
    inverse = jnp.where(top > SEES_NOTHING, 1.0 / total, 0.0)
    refs["o"][:, mine] = (out * (inverse / (1.0 - rate))).astype(refs["o"].dtype)
    refs["statistics"][:, mine] = jnp.concatenate([top, inverse], axis=0)
