"""The global keys of each example, picked out of all keys, and their gradients put back.

XLA would first turn all keys around, length first. Here one step fetches the LANES keys around a place and multiplies
with a matrix of zeros and ones that says which of them are which global keys: all that lie there, so that the steps of
the others have nothing to do. Places in order make those steps neighbours, and no block is fetched twice: not after it
changed, either.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.tpu.tiles import LANES, parameters


def pick(places, *arrays):
    """[B,H,K,T] -> [B,H,K,G] each. places: int32 [B,G] in rising order, inside the sequence."""
    B, G = places.shape
    shapes = [jax.ShapeDtypeStruct((*x.shape[:3], G), x.dtype) for x in arrays]
    sums = [pltpu.VMEM((x.shape[1] * x.shape[2], G), jnp.float32) for x in arrays]
    return _call(_pick, "band_pick", places, arrays, [_whole(x) for x in shapes], shapes, scratch=sums)


def put_back(places, totals, parts):
    """totals [B,H,K,T], each with its float32 part [B,H,K,G] added at the places: in their own memory."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in totals]
    aliases = {2 + i: i for i in range(len(totals))}
    blocks = [_around(x, places.shape[1]) for x in totals]
    return _call(_put_back, "band_put_back", places, totals, blocks, shapes, more=parts, aliases=aliases)


def _call(kernel, name, places, arrays, out_specs, out_shape, more=(), scratch=(), aliases=None):
    B, G = places.shape
    column = pl.BlockSpec((None, 1, G), lambda b, g, at: (b, 0, 0))
    return pl.pallas_call(
        partial(kernel, len(arrays)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, G),
            in_specs=[column, *(_around(x, G) for x in arrays), *map(_whole, more)],
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=out_shape,
        input_output_aliases=aliases or {},
        compiler_params=parameters("parallel", "arbitrary"),
        name=name,
    )(places.reshape(-1), places[:, None], *arrays, *more)


def _around(x, G: int) -> pl.BlockSpec:
    """The LANES keys of all heads among which the step's place is."""
    return pl.BlockSpec((None, *x.shape[1:3], LANES), lambda b, g, at: (b, 0, 0, at[b * G + g] // LANES))


def _whole(x) -> pl.BlockSpec:
    return pl.BlockSpec((None, *x.shape[1:]), lambda b, g, at: (b, 0, 0, 0))


def _block(at):
    """Which keys this step has, in units of LANES, and whether it is the first one that has them."""
    g = pl.program_id(1)
    here = pl.program_id(0) * pl.num_programs(1) + g
    block = at[here] // LANES
    return block, jnp.logical_or(g == 0, at[jnp.maximum(here - 1, 0)] // LANES != block)


def _is_at(places, block, dtype):
    """[LANES, G]: one where a key is that global one."""
    keys = block * LANES + jax.lax.broadcasted_iota(jnp.int32, (LANES, places.shape[1]), 0)
    return (keys == places).astype(dtype)


def _product(a, b, contract):
    """Every sum has one term, which comes out as it was."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dimensions = (((1,), (contract,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _pick(count, at, places, *refs):
    whole, picked, sums = refs[:count], refs[count : 2 * count], refs[2 * count :]
    (block, first), g, last = _block(at), pl.program_id(1), pl.num_programs(1) - 1

    @pl.when(g == 0)
    def _():
        for total in sums:
            total[...] = jnp.zeros_like(total)

    @pl.when(first)
    def _():
        for x, total in zip(whole, sums, strict=True):
            rows = x[...].reshape(-1, LANES)
            total[...] += _product(rows, _is_at(places[...], block, x.dtype), 0)

    @pl.when(g == last)
    def _():
        for out, total in zip(picked, sums, strict=True):
            out[...] = total[...].astype(out.dtype).reshape(out.shape)


def _put_back(count, at, places, *refs):
    totals, parts, results = refs[:count], refs[count : 2 * count], refs[2 * count :]
    block, first = _block(at)

    @pl.when(first)
    def _():
        for total, part, out in zip(totals, parts, results, strict=True):
            rows = part[...].astype(total.dtype).reshape(-1, part.shape[-1])
            there = _product(rows, _is_at(places[...], block, total.dtype), 1).reshape(total.shape)
            out[...] = (total[...].astype(jnp.float32) + there).astype(out.dtype)
