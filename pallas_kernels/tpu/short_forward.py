"""Attention of a whole row at once: o = v softmax2(k'q + bias), for as many keys as fit on the chip.

For a block of queries all score tiles are formed, then

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
from pallas_kernels.tpu.short_plan import Operands, Plan, kept, row_of_tiles, score_tile
from pallas_kernels.tpu.stagger import staggered
from pallas_kernels.tpu.tiles import LANES, as_column, parameters, width_by_queries


def forward(plan: Plan, x: Operands) -> tuple[jax.Array, jax.Array]:
    """Output [B,H,Kv,T] in v's dtype and statistics float32 [B,H,2,T]."""
    B, H, _, T = x.q.shape
    Kv = x.v.shape[2]
    results = call_kernel(
        partial(_kernel, plan),
        name="short_forward",
        grid=(H // plan.heads, B),
        compiler_params=parameters("parallel", "parallel"),
        inputs=operands(plan, x),
        outputs={
            "o": Operand(jax.ShapeDtypeStruct((B, H, Kv, T), x.v.dtype), per_head(plan, Kv, T)),
            "statistics": Operand(jax.ShapeDtypeStruct((B, H, 2, T), jnp.float32), per_head(plan, 2, T)),
        },
        scratch=column_scratch(x),
    )
    return results["o"], results["statistics"]


def per_head(plan: Plan, width: int, length: int) -> pl.BlockSpec:
    """Whole matrices [width, length] of the step's heads."""
    return pl.BlockSpec((None, plan.heads, width, length), lambda h, b: (b, h, 0, 0))


def operands(plan: Plan, x: Operands) -> dict[str, Operand | None]:
    """The inputs that the forward and the backward kernel share."""
    whole = pl.BlockSpec(memory_space=pltpu.SMEM)
    return {
        **{name: Operand(a, per_head(plan, *a.shape[2:])) for name, a in (("q", x.q), ("k", x.k), ("v", x.v))},
        "key_bias": x.key_bias
        if x.key_bias is None
        else Operand(x.key_bias, pl.BlockSpec((None, 1, x.key_bias.shape[-1]), lambda h, b: (b, 0, 0))),
        "bias": x.bias if x.bias is None else Operand(x.bias, bias_spec(plan, x.bias.shape)),
        "words": x.words if x.words is None else Operand(x.words, whole),
        "start": x.start if x.start is None else Operand(x.start, whole),
    }


def bias_spec(plan: Plan, shape) -> pl.BlockSpec:
    if plan.toeplitz:
        return pl.BlockSpec((plan.heads, *shape[1:]), lambda h, b: (h, 0, 0, 0))
    examples, heads = shape[:2]
    block = (None, plan.heads if heads > 1 else 1, *shape[2:])
    return pl.BlockSpec(block, lambda h, b: (b if examples > 1 else 0, h if heads > 1 else 0, 0, 0))


def column_scratch(x: Operands) -> dict:
    return {} if x.key_bias is None else {"column": pltpu.VMEM((x.key_bias.shape[-1], LANES), jnp.float32)}


def fill_column(refs) -> None:
    if "column" in refs:
        refs["column"][...] = as_column(refs["key_bias"][...])


def _kernel(plan: Plan, refs) -> None:
    fill_column(refs)
    example, first, heads = pl.program_id(1), pl.program_id(0) * plan.heads, pl.num_programs(0) * plan.heads

    def one(head, _):
        at, starts = (example, first + head, heads), range(0, refs["q"].shape[-1], plan.tiling.queries)
        staggered((_queries(plan, refs, example, head, at, t0) for t0 in starts), plan.tiling.ahead)

    jax.lax.fori_loop(0, plan.heads, one, None)


def _queries(plan, refs, example, head, at, t0):
    """The output of one row of tiles, in two halves: all scores, then all that needs their maximum."""
    row = row_of_tiles(plan, refs, t0)
    mine = slice(t0, t0 + row[0].queries)
    q, v = refs["q"][head, :, mine], refs["v"]
    scores = [score_tile(plan, refs, example, head, q, tile) for tile in row]
    top = reduce(jnp.maximum, [tile.max(axis=0, keepdims=True) for tile in scores])
    yield
    out, total = 0.0, 0.0
    for tile, values in zip(row, scores, strict=True):
        weights = jnp.exp2(values - top)
        total = total + weights.sum(axis=0, keepdims=True)
        if plan.rate:
            weights = jnp.where(kept(plan, refs, at, tile), weights, 0.0)
        part = v[head, :, tile.s0 : tile.s0 + tile.keys]
        out = out + width_by_queries(part, weights.astype(part.dtype))
    inverse = jnp.where(top > SEES_NOTHING, 1.0 / total, 0.0)
    refs["o"][head, :, mine] = (out * (inverse / (1.0 - plan.rate))).astype(refs["o"].dtype)
    refs["statistics"][head, :, mine] = jnp.concatenate([top, inverse], axis=0)
