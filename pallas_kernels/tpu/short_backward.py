"""The gradient of `short_forward` in one pass over the tiles: five products for each, nothing formed twice.

With P = exp2(scores - top), i = 1/sum and delta = sum over the width of do * o (both per query):

    dv = (i do) P'        dP = v'(i do)        dS = P * (dP - i delta)
    dq = ln2 * k dS       dk = ln2 * q dS'     dbias = ln2 * dS

The normalisation is folded into `do`, which is K rows and not a tile. Under dropout P in the first product and dP in
the third keep what the forward pass kept, and `do` carries 1 / (1 - rate). dk and dv of a head add up in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.kernel_call import LN2, Operand, call_kernel
from pallas_kernels.tpu.short_forward import bias_spec, column_scratch, fill_column, operands, per_head
from pallas_kernels.tpu.short_plan import Operands, Plan, bias_block, kept, row_of_tiles, score_tile
from pallas_kernels.tpu.tiles import keys_by_queries, parameters, width_by_keys, width_by_queries


def backward(plan: Plan, x: Operands, o, statistics, do, wants_bias: bool) -> dict[str, jax.Array]:
    """Gradients "q", "k", "v" in their dtypes, and float32 "bias" where it is wanted: per head, summed over the
    examples that share it."""
    (B, H, K, T), (Kv, S) = x.q.shape, x.v.shape[2:]
    outputs = {
        name: Operand(jax.ShapeDtypeStruct(a.shape, a.dtype), per_head(plan, *a.shape[2:]))
        for name, a in (("dq", x.q), ("dk", x.k), ("dv", x.v))
    }
    if wants_bias:
        shape = x.bias.shape if plan.toeplitz else (x.bias.shape[0], H, S, T)
        outputs["dbias"] = Operand(jax.ShapeDtypeStruct(shape, jnp.float32), bias_spec(plan, shape))
    return call_kernel(
        partial(_kernel, plan, wants_bias and (plan.toeplitz or x.bias.shape[0] == 1)),
        name="short_backward",
        grid=(H // plan.heads, B),
        compiler_params=parameters("parallel", "arbitrary" if wants_bias else "parallel"),
        inputs={
            **operands(plan, x),
            "o": Operand(o, per_head(plan, Kv, T)),
            "do": Operand(do, per_head(plan, Kv, T)),
            "statistics": Operand(statistics, per_head(plan, 2, T)),
        },
        outputs=outputs,
        scratch={
            **column_scratch(x),
            "sum_k": pltpu.VMEM((K, S), jnp.float32),
            "sum_v": pltpu.VMEM((Kv, S), jnp.float32),
        },
    )


def _kernel(plan: Plan, shared_bias: bool, refs) -> None:
    fill_column(refs)
    example, first, heads = pl.program_id(1), pl.program_id(0) * plan.heads, pl.num_programs(0) * plan.heads
    if "dbias" in refs:

        @pl.when(jnp.logical_or(example == 0, not shared_bias))
        def _():
            refs["dbias"][...] = jnp.zeros_like(refs["dbias"])

    def one(head, _):
        for name in ("sum_k", "sum_v"):
            refs[name][...] = jnp.zeros_like(refs[name])
        for t0 in range(0, refs["q"].shape[-1], plan.queries):
            _queries(plan, refs, example, head, (example, first + head, heads), t0)
        refs["dk"][head] = (refs["sum_k"][...] * LN2).astype(refs["dk"].dtype)
        refs["dv"][head] = refs["sum_v"][...].astype(refs["dv"].dtype)

    jax.lax.fori_loop(0, plan.heads, one, None)


def _queries(plan, refs, example, head, at, t0) -> None:
    row = row_of_tiles(plan, refs, t0)
    mine = slice(t0, t0 + row[0].queries)
    q, do = refs["q"][head, :, mine], refs["do"][head, :, mine]
    top, inverse = refs["statistics"][head, :1, mine], refs["statistics"][head, 1:, mine]
    do_f32 = do.astype(jnp.float32)
    delta = (do_f32 * refs["o"][head, :, mine].astype(jnp.float32)).sum(axis=0, keepdims=True) * inverse
    do = (do_f32 * (inverse / (1.0 - plan.rate))).astype(do.dtype)
    dq = 0.0
    for tile in row:
        keys = slice(tile.s0, tile.s0 + tile.keys)
        k, v = refs["k"][head, :, keys], refs["v"][head, :, keys]
        weights = jnp.exp2(score_tile(plan, refs, example, head, q, tile) - top)
        slopes, used = keys_by_queries(v, do), weights
        if plan.rate:
            survives = kept(plan, refs, at, tile)
            slopes, used = jnp.where(survives, slopes, 0.0), jnp.where(survives, weights, 0.0)
        ds = weights * (slopes - delta)
        if "dbias" in refs:
            where = bias_block(plan, refs, "dbias", head, tile)
            refs["dbias"][where] += ds * LN2
        ds = ds.astype(q.dtype)
        refs["sum_v"][:, keys] += width_by_keys(do, used.astype(do.dtype))
        refs["sum_k"][:, keys] += width_by_keys(q, ds)
        dq = dq + width_by_queries(k, ds)
    refs["dq"][head, :, mine] = (dq * LN2).astype(refs["dq"].dtype)
