"""The gradient of `flash_forward` in two kernels that form the weights again; no sum is shared between programs.

With P = exp2(S - top) / sum, and delta = (1 - rate) * sum over the width of do * o, both per query:

    dP = do v'        dS = P * (dP - delta) / (1 - rate)
    dv = P' do / (1 - rate)        dk = ln2 * dS' q        dq = ln2 * dS k

where, under dropout, P in dv and dP keep what the forward pass kept. One kernel has a block of keys and goes over the
queries that see them (dk, dv); its tiles are turned, keys by queries, so that no weight has to be. The other has a
block of queries and goes over the keys in its reach (dq). There, global keys are met by every block of queries: each
writes its part of their dk and dv, which XLA adds up.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.gpu.flash_forward import (
    global_chunk,
    global_operands,
    head_of,
    shared_operands,
    statistic_of_block,
)
from pallas_kernels.gpu.plan import Gathered, Operands, Plan, global_tile, kept, score_tile, span
from pallas_kernels.gpu.tiles import all_rows, parameters, product, rows_of_block
from pallas_kernels.kernel_call import LN2, Operand, call_kernel

STATISTICS = ("top", "inverse", "delta")


class Given(NamedTuple):
    """What is known of each query: float32 [B,H,T] statistics, delta times 1 - rate, and do [B,T,H,Kv]."""

    top: jax.Array
    inverse: jax.Array
    delta: jax.Array
    do: jax.Array

    def statistics(self, spec) -> dict[str, Operand]:
        return {name: Operand(getattr(self, name), spec) for name in STATISTICS}


def delta_of(plan: Plan, o, do) -> jax.Array:
    """float32 [B,H,T], times 1 - rate."""
    products = (do.astype(jnp.float32) * o.astype(jnp.float32)).sum(axis=-1)
    return products.swapaxes(1, 2) * (1.0 - plan.rate)


def by_keys(plan: Plan, x: Operands, given: Given) -> tuple[jax.Array, jax.Array]:
    """dk [B,S,H,K] and dv [B,S,H,Kv], without the part of the global keys."""
    (B, T, H, K), S, Kv = x.q.shape, x.k.shape[1], x.v.shape[3]
    side = plan.keys.keys
    whole = pl.BlockSpec((None, None, T), lambda i, h, b: (b, h, 0))
    k, v = rows_of_block(side, K), rows_of_block(side, Kv)
    results = call_kernel(
        partial(_keys_kernel, plan, (T, S)),
        name="flash_backward_keys",
        grid=(S // side, H, B),
        compiler_params=parameters(plan.keys),
        inputs={
            "q": Operand(x.q, all_rows(T, K)),
            "do": Operand(given.do, all_rows(T, Kv)),
            "k": Operand(x.k, k),
            "v": Operand(x.v, v),
            **given.statistics(whole),
            **shared_operands(x),
        },
        outputs={
            "dk": Operand(jax.ShapeDtypeStruct(x.k.shape, x.k.dtype), k),
            "dv": Operand(jax.ShapeDtypeStruct(x.v.shape, x.v.dtype), v),
        },
    )
    return results["dk"], results["dv"]


def by_queries(plan: Plan, x: Operands, gathered: Gathered | None, given: Given) -> list[jax.Array]:
    """dq [B,T,H,K], and where there are global keys their float32 dk [B,G,H,K] and dv [B,G,H,Kv]."""
    (B, T, H, K), S, Kv = x.q.shape, x.k.shape[1], x.v.shape[3]
    side = plan.queries.queries
    rows, statistic = rows_of_block(side, K), statistic_of_block(side)
    outputs = {"dq": Operand(jax.ShapeDtypeStruct(x.q.shape, x.q.dtype), rows)}
    if gathered is not None:
        G = x.global_at.shape[1]
        for name, width in (("global_dk", K), ("global_dv", Kv)):
            part = pl.BlockSpec((None, None, G, None, width), lambda i, h, b: (b, i, 0, h, 0))
            outputs[name] = Operand(jax.ShapeDtypeStruct((B, T // side, G, H, width), jnp.float32), part)
    results = call_kernel(
        partial(_queries_kernel, plan, (T, S)),
        name="flash_backward_queries",
        grid=(T // side, H, B),
        compiler_params=parameters(plan.queries),
        inputs={
            "q": Operand(x.q, rows),
            "do": Operand(given.do, rows_of_block(side, Kv)),
            "k": Operand(x.k, all_rows(S, K)),
            "v": Operand(x.v, all_rows(S, Kv)),
            **given.statistics(statistic),
            **shared_operands(x),
            **global_operands(x, gathered),
        },
        outputs=outputs,
    )
    return [a if name == "dq" else a.sum(axis=1) for name, a in results.items()]


def weights_and_slopes(scores, dp, keep, top, inverse, delta):
    """Of a tile: the weights that dropout leaves, and dS, both times 1 - rate. keep: bool, or None."""
    weights = jnp.exp2(scores - top) * inverse
    if keep is None:
        return weights, weights * (dp - delta)
    return jnp.where(keep, weights, 0.0), weights * (jnp.where(keep, dp, 0.0) - delta)


def _keys_kernel(plan: Plan, lengths, refs) -> None:
    size, side = plan.keys.keys, plan.keys.queries
    s0, head = pl.program_id(0) * size, head_of(refs, lengths)
    k, v = refs["k"][...], refs["v"][...]
    s = (s0 + jnp.arange(size, dtype=jnp.int32))[:, None]
    key_bias = refs["key_bias"][pl.ds(s0, size)][:, None] if "key_bias" in refs else None

    def queries(i, carry, edge):
        dk, dv = carry
        place = pl.ds(i * side, side)
        t = (i * side + jnp.arange(side, dtype=jnp.int32))[None, :]
        q, do = refs["q"][place, :], refs["do"][place, :]
        scores = score_tile(plan, head, product(k, q.T), t, s, key_bias, edge)
        top, inverse, delta = (refs[name][place][None, :] for name in STATISTICS)
        keep = kept(plan, head, t, s) if plan.rate else None
        weights, ds = weights_and_slopes(scores, product(v, do.T), keep, top, inverse, delta)
        return dk + product(ds.astype(q.dtype), q), dv + product(weights.astype(do.dtype), do)

    # Seen from a key, what a window has on the left of a query is on the right.
    reach = span(s0 - head.start, size, plan.right, plan.left, side, lengths[0] // side)
    dk, dv = reach.loop(queries, (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)))
    refs["dk"][...] = (dk * (LN2 / (1.0 - plan.rate))).astype(refs["dk"].dtype)
    refs["dv"][...] = (dv * (1.0 / (1.0 - plan.rate))).astype(refs["dv"].dtype)


def _queries_kernel(plan: Plan, lengths, refs) -> None:
    size, side = plan.queries.queries, plan.queries.keys
    t0, head = pl.program_id(0) * size, head_of(refs, lengths)
    q, do = refs["q"][...], refs["do"][...]
    t = (t0 + jnp.arange(size, dtype=jnp.int32))[:, None]
    statistics = tuple(refs[name][...][:, None] for name in STATISTICS)

    def slopes(scores, v, s):
        keep = kept(plan, head, t, s) if plan.rate else None
        return weights_and_slopes(scores, product(do, v.T), keep, *statistics)

    def keys(j, dq, edge):
        place = pl.ds(j * side, side)
        s = (j * side + jnp.arange(side, dtype=jnp.int32))[None, :]
        k = refs["k"][place, :]
        key_bias = refs["key_bias"][place][None, :] if "key_bias" in refs else None
        _, ds = slopes(score_tile(plan, head, product(q, k.T), t, s, key_bias, edge), refs["v"][place, :], s)
        return dq + product(ds.astype(k.dtype), k)

    def global_keys(g, dq):
        place = pl.ds(g * chunk, chunk)
        s, k = refs["global_at"][place][None, :], refs["global_k"][place, :]
        scores = global_tile(plan, head, product(q, k.T), t, s, refs["global_bias"][place][None, :])
        weights, ds = slopes(scores, refs["global_v"][place, :], s)
        refs["global_dk"][place, :] = product(ds.astype(q.dtype).T, q) * (LN2 / (1.0 - plan.rate))
        refs["global_dv"][place, :] = product(weights.astype(do.dtype).T, do) * (1.0 / (1.0 - plan.rate))
        return dq + product(ds.astype(k.dtype), k)

    dq = jnp.zeros(q.shape, jnp.float32)
    if "global_k" in refs:
        chunk = global_chunk(refs, side)
        dq = jax.lax.fori_loop(0, refs["global_k"].shape[0] // chunk, global_keys, dq)
    reach = span(head.start + t0, size, plan.left, plan.right, side, lengths[1] // side)
    dq = reach.loop(keys, dq)
    refs["dq"][...] = (dq * (LN2 / (1.0 - plan.rate))).astype(refs["dq"].dtype)
