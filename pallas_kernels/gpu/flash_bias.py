"""The gradient of a bias: dS of `flash_backward`, added up over all that share a value of the bias.

A program has one tile of the bias. That of a dense one is met by every example that shares the bias; that of a Toeplitz
one by those and by every block of queries, since the tiles along a diagonal of blocks have the same bias. Within such a
tile XLA adds along the diagonals. So what is written grows with T + S and not with T * S.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.bias import skew
from pallas_kernels.gpu.flash_backward import STATISTICS, Given, weights_and_slopes
from pallas_kernels.gpu.plan import Head, Operands, Plan, kept, score_tile
from pallas_kernels.gpu.tiles import parameters, product
from pallas_kernels.kernel_call import LN2, Operand, call_kernel


def by_bias(plan: Plan, x: Operands, given: Given) -> jax.Array:
    """float32, in the shape of `x.bias`."""
    (B, T, H, _), S, side = x.q.shape, x.k.shape[1], plan.bias.queries
    shared = x.bias.shape[0] == 1
    examples, groups = (B, 1) if shared else (1, B)
    blocks = T // side, S // side
    tiles = sum(blocks) - 1 if plan.toeplitz else blocks[0] * blocks[1]

    def of_head(a):
        """All of one head, of the examples that share a bias: a is [B,length,H,width] or [B,H,length or 3]."""
        if a.ndim == 4:
            return Operand(a, pl.BlockSpec((examples, a.shape[1], None, a.shape[3]), lambda c, h, e: (e, 0, h, 0)))
        return Operand(a, pl.BlockSpec((examples, None, a.shape[2]), lambda c, h, e: (e, h, 0)))

    def of_example(a):
        if a is None:
            return None
        return Operand(a, pl.BlockSpec((examples, *a.shape[1:]), lambda c, h, e: (e, *[0] * (a.ndim - 1))))

    if plan.toeplitz:
        out = Operand(
            jax.ShapeDtypeStruct((groups, H, tiles, side, side), jnp.float32),
            pl.BlockSpec((None, None, None, side, side), lambda c, h, e: (e, h, c, 0, 0)),
        )
    else:
        out = Operand(
            jax.ShapeDtypeStruct((groups, H, T, S), jnp.float32),
            pl.BlockSpec((None, None, side, side), lambda c, h, e: (e, h, c // blocks[1], c % blocks[1])),
        )
    whole_head = x.bias.shape[1] > 1
    bias = pl.BlockSpec((None, None, x.bias.shape[2]), lambda c, h, e: (e, h if whole_head else 0, 0))
    dbias = call_kernel(
        partial(_kernel, plan, (T, S), examples),
        name="flash_backward_bias",
        grid=(tiles, H, groups),
        compiler_params=parameters(plan.bias),
        inputs={
            **{n: of_head(a) for n, a in (("q", x.q), ("k", x.k), ("v", x.v), ("do", given.do))},
            **{n: of_head(getattr(given, n)) for n in STATISTICS},
            "key_bias": of_example(x.key_bias),
            "bias": Operand(x.bias, bias),
            "words": None if x.words is None else of_head(x.words),
            "start": of_example(x.start),
        },
        outputs={"dbias": out},
    )["dbias"]
    if plan.toeplitz:
        diagonals = jax.ShapeDtypeStruct(x.bias.shape, jnp.float32)
        return jax.linear_transpose(partial(_tiles, side), diagonals)(dbias)[0]
    if not whole_head:
        dbias = dbias.sum(axis=1, keepdims=True)
    return dbias.reshape(x.bias.shape)


def _tiles(side: int, diagonals):
    """[..., T+S-1] -> [..., tiles, side, side]: the bias on each diagonal of square blocks, queries by keys."""
    *lead, count = diagonals.shape
    blocks = jnp.pad(diagonals, [(0, 0)] * len(lead) + [(0, 1)]).reshape(*lead, (count + 1) // side, side)
    windows = jnp.concatenate([blocks[..., :-1, :], blocks[..., 1:, :-1]], axis=-1)
    return skew(jnp.broadcast_to(windows[..., None, :], (*windows.shape[:-1], side, 2 * side - 1)), side)


def _kernel(plan: Plan, lengths, examples, refs) -> None:
    side, cell = plan.bias.queries, pl.program_id(0)
    rows, columns = lengths[0] // side, lengths[1] // side
    if plan.toeplitz:  # blocks (i, i + shift) for as many i as there are
        shift = cell - (rows - 1)
        first = jnp.maximum(-shift, 0)
        count = jnp.minimum(rows, columns - shift) - first
    else:
        first, count = jax.lax.div(cell, columns), 1
        shift = jax.lax.rem(cell, columns) - first
    here = jnp.arange(side, dtype=jnp.int32)

    def example(b, total):
        words = [refs["words"][b, i] for i in range(3)] if "words" in refs else None
        head = Head(refs["start"][b] if "start" in refs else 0, words, refs["bias"], lengths)

        def tile(n, total):
            t0, s0 = (first + n) * side, (first + n + shift) * side
            t, s = (t0 + here)[:, None], (s0 + here)[None, :]
            mine, theirs = pl.ds(t0, side), pl.ds(s0, side)
            key_bias = refs["key_bias"][b, theirs][None, :] if "key_bias" in refs else None
            products = product(refs["q"][b, mine, :], refs["k"][b, theirs, :].T)
            scores = score_tile(plan, head, products, t, s, key_bias, edge=True)
            dp = product(refs["do"][b, mine, :], refs["v"][b, theirs, :].T)
            keep = kept(plan, head, t, s) if plan.rate else None
            statistics = (refs[name][b, mine][:, None] for name in STATISTICS)
            return total + weights_and_slopes(scores, dp, keep, *statistics)[1]

        # Of square blocks one shift apart, all or none are in reach.
        seen = True
        if plan.left is not None:
            seen &= shift * side - head.start + side - 1 >= -plan.left
        if plan.right is not None:
            seen &= shift * side - head.start - (side - 1) <= plan.right
        steps = count if seen is True else jnp.where(seen, count, 0)
        return jax.lax.fori_loop(0, steps, tile, total)

    total = jax.lax.fori_loop(0, examples, example, jnp.zeros((side, side), jnp.float32))
    refs["dbias"][...] = total * (LN2 / (1.0 - plan.rate))
