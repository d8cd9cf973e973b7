"""Attention of a block of queries to the keys in reach, block by block: o = v softmax2(q k' + bias).

With S the scores of one block of keys, the sums so far are kept for the greatest score so far:

    top' = max(top, S),  a = exp2(top - top'),  P = exp2(S - top'),  sum' = a sum + P 1,  o' = a o + P v

Global keys are one more block, first in the same softmax. The statistics top and 1/sum of each query are kept for the
gradient; the inverse is zero for a query that sees no key, which makes its output and all its gradients zero.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.gpu.plan import Gathered, Head, Operands, Plan, global_tile, kept, score_tile, span
from pallas_kernels.gpu.tiles import all_rows, parameters, product, rows_of_block
from pallas_kernels.kernel_call import HIDDEN, SEES_NOTHING, Operand, call_kernel


def forward(plan: Plan, x: Operands, gathered: Gathered | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Output [B,T,H,Kv] in v's dtype, and the statistics top and 1/sum, float32 [B,H,T] each."""
    (B, T, H, K), Kv = x.q.shape, x.v.shape[3]
    side = plan.forward.queries
    statistic = Operand(jax.ShapeDtypeStruct((B, H, T), jnp.float32), statistic_of_block(side))
    results = call_kernel(
        partial(_kernel, plan, (T, x.k.shape[1])),
        name="flash_forward",
        grid=(T // side, H, B),
        compiler_params=parameters(plan.forward),
        inputs={
            "q": Operand(x.q, rows_of_block(side, K)),
            "k": Operand(x.k, all_rows(x.k.shape[1], K)),
            "v": Operand(x.v, all_rows(x.v.shape[1], Kv)),
            **shared_operands(x),
            **global_operands(x, gathered),
        },
        outputs={
            "o": Operand(jax.ShapeDtypeStruct((B, T, H, Kv), x.v.dtype), rows_of_block(side, Kv)),
            "top": statistic,
            "inverse": statistic,
        },
    )
    return results["o"], results["top"], results["inverse"]


def statistic_of_block(side: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, side), lambda i, h, b: (b, h, i))


def shared_operands(x: Operands) -> dict[str, Operand | None]:
    """What is the same for all blocks of a head: key_bias [S], bias, words [3], start [1]."""

    def bias_at(i, h, b):
        return b if x.bias.shape[0] > 1 else 0, h if x.bias.shape[1] > 1 else 0, 0

    specs = {
        "key_bias": lambda a: pl.BlockSpec((None, a.shape[1]), lambda i, h, b: (b, 0)),
        "bias": lambda a: pl.BlockSpec((None, None, a.shape[2]), bias_at),
        "words": lambda a: pl.BlockSpec((None, None, 3), lambda i, h, b: (b, h, 0)),
        "start": lambda a: pl.BlockSpec((1,), lambda i, h, b: (b,)),
    }
    return {n: None if (a := getattr(x, n)) is None else Operand(a, spec(a)) for n, spec in specs.items()}


def global_operands(x: Operands, gathered: Gathered | None) -> dict[str, Operand]:
    if gathered is None:
        return {}
    G = x.global_at.shape[1]
    row = pl.BlockSpec((None, G), lambda i, h, b: (b, 0))
    return {
        "global_k": Operand(gathered.k, all_rows(G, gathered.k.shape[3])),
        "global_v": Operand(gathered.v, all_rows(G, gathered.v.shape[3])),
        "global_at": Operand(x.global_at, row),
        "global_bias": Operand(x.global_bias, row),
    }


def head_of(refs, lengths) -> Head:
    return Head(
        refs["start"][0] if "start" in refs else 0,
        [refs["words"][i] for i in range(3)] if "words" in refs else None,
        refs.get("bias"),
        lengths,
    )


def global_chunk(refs, side: int) -> int:
    """How many of the global keys make a tile."""
    return min(side, refs["global_k"].shape[0])


def _kernel(plan: Plan, lengths, refs) -> None:
    size, side = plan.forward.queries, plan.forward.keys
    t0, head, q = pl.program_id(0) * size, head_of(refs, lengths), refs["q"][...]
    t = (t0 + jnp.arange(size, dtype=jnp.int32))[:, None]

    def add(carry, scores, v, s):
        out, top, total = carry
        higher = jnp.maximum(top, scores.max(axis=1))
        shrink, weights = jnp.exp2(top - higher), jnp.exp2(scores - higher[:, None])
        total = total * shrink + weights.sum(axis=1)
        if plan.rate:
            weights = jnp.where(kept(plan, head, t, s), weights, 0.0)
        return out * shrink[:, None] + product(weights.astype(v.dtype), v), higher, total

    def keys(j, carry, edge):
        place = pl.ds(j * side, side)
        s = (j * side + jnp.arange(side, dtype=jnp.int32))[None, :]
        key_bias = refs["key_bias"][place][None, :] if "key_bias" in refs else None
        scores = score_tile(plan, head, product(q, refs["k"][place, :].T), t, s, key_bias, edge)
        return add(carry, scores, refs["v"][place, :], s)

    def global_keys(g, carry):
        place = pl.ds(g * chunk, chunk)
        s = refs["global_at"][place][None, :]
        products = product(q, refs["global_k"][place, :].T)
        scores = global_tile(plan, head, products, t, s, refs["global_bias"][place][None, :])
        return add(carry, scores, refs["global_v"][place, :], s)

    carry = (
        jnp.zeros((size, refs["v"].shape[1]), jnp.float32),
        jnp.full((size,), HIDDEN, jnp.float32),
        jnp.zeros((size,), jnp.float32),
    )
    if "global_k" in refs:
        chunk = global_chunk(refs, side)
        carry = jax.lax.fori_loop(0, refs["global_k"].shape[0] // chunk, global_keys, carry)
    reach = span(head.start + t0, size, plan.left, plan.right, side, lengths[1] // side)
    out, top, total = reach.loop(keys, carry)
    inverse = jnp.where(top > SEES_NOTHING, 1.0 / total, 0.0)
    refs["o"][...] = (out * (inverse / (1.0 - plan.rate))[:, None]).astype(refs["o"].dtype)
    refs["top"][...] = top
    refs["inverse"][...] = inverse
