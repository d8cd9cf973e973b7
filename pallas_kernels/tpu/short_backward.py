"""The gradient of `short_forward` in one pass over the tiles; a tile's part of it is in `gradient`.

dk and dv of a head add up in float32, the gradient of a bias over all examples that share it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.kernel_call import LN2, Operand, call_kernel
from pallas_kernels.tpu.gradient import Row, add_tile, row_of
from pallas_kernels.tpu.short_forward import bias_spec, column_scratch, fill_column, operands, per_head
from pallas_kernels.tpu.short_plan import Operands, Plan, Tile, bias_block, kept, row_of_tiles, score_tile
from pallas_kernels.tpu.stagger import staggered
from pallas_kernels.tpu.tiles import keys_by_queries, parameters


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
        staggered(_jobs(plan, refs, example, head, (example, first + head, heads)), plan.tiling.ahead)
        refs["dk"][head] = (refs["sum_k"][...] * LN2).astype(refs["dk"].dtype)
        refs["dv"][head] = refs["sum_v"][...].astype(refs["dv"].dtype)

    jax.lax.fori_loop(0, plan.heads, one, None)


def _jobs(plan, refs, example, head, at):
    """One job for each tile of a head, in two halves: scores and slopes, then what they give."""
    for t0 in range(0, refs["q"].shape[-1], plan.tiling.queries):
        tiles = row_of_tiles(plan, refs, t0)
        row = row_of(refs, (head,), slice(t0, t0 + tiles[0].queries), plan.rate)
        for tile in tiles:
            yield _job(plan, refs, example, head, at, row, tile, tile is tiles[-1])


def _job(plan, refs, example, head, at, row: Row, tile: Tile, last: bool):
    keys = slice(tile.s0, tile.s0 + tile.keys)
    k, v = refs["k"][head, :, keys], refs["v"][head, :, keys]
    scores, slopes = score_tile(plan, refs, example, head, row.q, tile), keys_by_queries(v, row.do)
    yield
    dk, dv, ds = add_tile(row, k, scores, slopes, kept(plan, refs, at, tile) if plan.rate else None)
    if "dbias" in refs:
        refs["dbias"][bias_block(plan, refs, "dbias", head, tile)] += ds * LN2
    refs["sum_k"][:, keys] += dk
    refs["sum_v"][:, keys] += dv
    if last:
        refs["dq"][head, :, row.mine] = (row.dq * LN2).astype(refs["dq"].dtype)
