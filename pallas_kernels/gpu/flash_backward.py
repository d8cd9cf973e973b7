"""Backward pass of flash attention on a GPU: kernels that recompute the weights; no sum is shared between programs.

With P = exp2(S - max) / sum, and delta = (1 - rate) * sum over the head width of do * o, both per query:

    dP = do v'        dS = P * (dP - delta) / (1 - rate)
    dv = P' do / (1 - rate)        dk = ln2 * dS' q        dq = ln2 * dS k        dbias = ln2 * dS

where, under dropout, P in dv and dP are masked as in the forward pass. There are three kernels:

- dk and dv: a program has a block of keys and goes over the queries that see them, of all heads that share the key
  head. Its tiles are transposed, keys by queries, so that no weights have to be.
- dq: a program has a block of queries and goes over the keys in its reach. Global keys are in the reach of every block
  of queries: each block writes its part of their dk and dv, which XLA adds up.
- dbias: a program has one tile of the bias. A tile of a dense bias gets a gradient from every example that shares the
  bias; a tile of a Toeplitz bias from those and from every block of queries, since the tiles along a diagonal of blocks
  have the same bias. Within such a tile XLA adds along the diagonals, so the memory written grows with T + S and not
  with T * S.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.base2 import LN2
from pallas_kernels.bias import skew
from pallas_kernels.gpu.flash_forward import (
    FlashGlobalKV,
    FlashOperands,
    FlashPlan,
    HeadContext,
    Index,
    global_inputs,
    global_score_tile,
    global_tile_keys,
    head_context,
    keep_tile,
    reachable_blocks,
    score_tile,
    shared_inputs,
    statistic_block,
)
from pallas_kernels.gpu.tiles import (
    block_of_head,
    compiler_params,
    key_head,
    product,
    query_heads,
    whole_key_head,
)
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel, like_operand

STATISTICS = ("max", "inverse_sum", "delta")


class BackwardInputs(NamedTuple):
    """What the backward kernels read of each query.

    Attributes:
      max: float32 [B, H, T], the maximum score.
      inverse_sum: float32 [B, H, T], 1 / sum.
      delta: float32 [B, H, T], delta as above.
      do: [B, T, H, Kv], the cotangent of the output.
    """

    max: jax.Array
    inverse_sum: jax.Array
    delta: jax.Array
    do: jax.Array

    def statistics(self, spec: pl.BlockSpec) -> dict[str, BlockedArray]:
        """The statistics by name, all with the same block spec."""
        return {name: BlockedArray(getattr(self, name), spec) for name in STATISTICS}


def compute_delta(plan: FlashPlan, o: jax.Array, do: jax.Array) -> jax.Array:
    """float32 [B, H, T] from the output and its cotangent, [B, T, H, Kv]."""
    products = (do.astype(jnp.float32) * o.astype(jnp.float32)).sum(axis=-1)
    return products.swapaxes(1, 2) * (1.0 - plan.rate)


def grad_keys_values(plan: FlashPlan, x: FlashOperands, inputs: BackwardInputs) -> tuple[jax.Array, jax.Array]:
    """dk [B, S, G, K] and dv [B, S, G, Kv], without the part of the global keys."""
    (B, S, G, K), T, Kv = x.k.shape, x.q.shape[1], x.v.shape[3]
    size = plan.dkv.keys
    whole = pl.BlockSpec((None, None if plan.group == 1 else plan.group, T), lambda i, g, b: (b, g, 0))
    k, v = block_of_head(size, K), block_of_head(size, Kv)
    results = call_kernel(
        partial(_keys_kernel, plan, (T, S)),
        name="flash_backward_keys",
        grid=(S // size, G, B),
        compiler_params=compiler_params(plan.dkv),
        inputs={
            "q": BlockedArray(x.q, query_heads(T, K, plan.group)),
            "do": BlockedArray(inputs.do, query_heads(T, Kv, plan.group)),
            "k": BlockedArray(x.k, k),
            "v": BlockedArray(x.v, v),
            **inputs.statistics(whole),
            **shared_inputs(x, plan.group),
        },
        outputs={
            "dk": BlockedArray(jax.ShapeDtypeStruct(x.k.shape, x.k.dtype), k),
            "dv": BlockedArray(jax.ShapeDtypeStruct(x.v.shape, x.v.dtype), v),
        },
    )
    return results["dk"], results["dv"]


def grad_queries(
    plan: FlashPlan, x: FlashOperands, global_kv: FlashGlobalKV | None, inputs: BackwardInputs
) -> list[jax.Array]:
    """dq [B, T, H, K], and with global keys their float32 dk [B, N, G, K] and dv [B, N, G, Kv]."""
    (B, T, H, K), S, Kv = x.q.shape, x.k.shape[1], x.v.shape[3]
    size = plan.dq.queries
    block, statistic = block_of_head(size, K), statistic_block(size)
    outputs = {"dq": BlockedArray(jax.ShapeDtypeStruct(x.q.shape, x.q.dtype), block)}
    if global_kv is not None:
        N = global_kv.k.shape[1]
        for name, width in (("global_dk", K), ("global_dv", Kv)):
            part = pl.BlockSpec((None, None, N, None, width), lambda i, h, b: (b, i, 0, h, 0))
            outputs[name] = BlockedArray(jax.ShapeDtypeStruct((B, T // size, N, H, width), jnp.float32), part)
    results = call_kernel(
        partial(_queries_kernel, plan, (T, S)),
        name="flash_backward_queries",
        grid=(T // size, H, B),
        compiler_params=compiler_params(plan.dq),
        inputs={
            "q": BlockedArray(x.q, block),
            "do": BlockedArray(inputs.do, block_of_head(size, Kv)),
            "k": BlockedArray(x.k, whole_key_head(S, K, plan.group)),
            "v": BlockedArray(x.v, whole_key_head(S, Kv, plan.group)),
            **inputs.statistics(statistic),
            **shared_inputs(x),
            **global_inputs(plan, x, global_kv),
        },
        outputs=outputs,
    )

    def sum_of_parts(a):
        """[B, blocks, N, H, width] -> [B, N, G, width]."""
        return a.reshape(*a.shape[:3], -1, plan.group, a.shape[4]).sum(axis=(1, 4))

    return [a if name == "dq" else sum_of_parts(a) for name, a in results.items()]


def _weights_and_score_grads(scores, dp, keep, score_max, inverse_sum, delta):
    """The weights of a tile after dropout, and dS, both times 1 - rate. keep: bool, or None."""
    weights = jnp.exp2(scores - score_max) * inverse_sum
    if keep is None:
        return weights, weights * (dp - delta)
    return jnp.where(keep, weights, 0.0), weights * (jnp.where(keep, dp, 0.0) - delta)


def _keys_kernel(plan: FlashPlan, lengths: tuple[int, int], refs: Refs) -> None:
    size, tile_queries = plan.dkv.keys, plan.dkv.queries
    s0 = pl.program_id(0) * size
    k, v = refs["k"][...], refs["v"][...]
    s = (s0 + jnp.arange(size, dtype=jnp.int32))[:, None]
    key_bias = refs["key_bias"][pl.ds(s0, size)][:, None] if "key_bias" in refs else None

    def add_queries(head, member, i, carry, is_partial):
        dk, dv = carry
        queries = pl.ds(i * tile_queries, tile_queries)
        t = (i * tile_queries + jnp.arange(tile_queries, dtype=jnp.int32))[None, :]
        q, do = refs["q"][queries, *member, :], refs["do"][queries, *member, :]
        scores = score_tile(plan, head, product(k, q.T), t, s, key_bias, is_partial)
        score_max, inverse_sum, delta = (refs[name][*member, queries][None, :] for name in STATISTICS)
        keep = keep_tile(plan, head, t, s) if plan.rate else None
        weights, ds = _weights_and_score_grads(scores, product(v, do.T), keep, score_max, inverse_sum, delta)
        return dk + product(ds.astype(q.dtype), q), dv + product(weights.astype(do.dtype), do)

    def add_head(carry, *member):
        head = head_context(refs, lengths, member)
        # For a key, the window's left side of a query is on the right.
        reach = reachable_blocks(s0 - head.start, size, plan.right, plan.left, tile_queries, lengths[0] // tile_queries)
        return reach.loop(partial(add_queries, head, member), carry)

    carry = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    if plan.group == 1:
        dk, dv = add_head(carry)
    else:
        dk, dv = jax.lax.fori_loop(0, plan.group, lambda member, carry: add_head(carry, member), carry)
    refs["dk"][...] = (dk * (LN2 / (1.0 - plan.rate))).astype(refs["dk"].dtype)
    refs["dv"][...] = (dv * (1.0 / (1.0 - plan.rate))).astype(refs["dv"].dtype)


def _queries_kernel(plan: FlashPlan, lengths: tuple[int, int], refs: Refs) -> None:
    size, tile_keys = plan.dq.queries, plan.dq.keys
    t0, head = pl.program_id(0) * size, head_context(refs, lengths)
    q, do = refs["q"][...], refs["do"][...]
    t = (t0 + jnp.arange(size, dtype=jnp.int32))[:, None]
    statistics = tuple(refs[name][...][:, None] for name in STATISTICS)

    def weights_and_score_grads(scores, v, s):
        keep = keep_tile(plan, head, t, s) if plan.rate else None
        return _weights_and_score_grads(scores, product(do, v.T), keep, *statistics)

    def add_keys(j, dq, is_partial):
        keys = pl.ds(j * tile_keys, tile_keys)
        s = (j * tile_keys + jnp.arange(tile_keys, dtype=jnp.int32))[None, :]
        k = refs["k"][keys, :]
        key_bias = refs["key_bias"][keys][None, :] if "key_bias" in refs else None
        scores = score_tile(plan, head, product(q, k.T), t, s, key_bias, is_partial)
        _, ds = weights_and_score_grads(scores, refs["v"][keys, :], s)
        return dq + product(ds.astype(k.dtype), k)

    def add_global_keys(g, dq):
        keys = pl.ds(g * chunk, chunk)
        s, k = refs["global_at"][keys][None, :], refs["global_k"][keys, :]
        scores = global_score_tile(plan, head, product(q, k.T), t, s, refs["global_bias"][keys][None, :])
        weights, ds = weights_and_score_grads(scores, refs["global_v"][keys, :], s)
        refs["global_dk"][keys, :] = product(ds.astype(q.dtype).T, q) * (LN2 / (1.0 - plan.rate))
        refs["global_dv"][keys, :] = product(weights.astype(do.dtype).T, do) * (1.0 / (1.0 - plan.rate))
        return dq + product(ds.astype(k.dtype), k)

    dq = jnp.zeros(q.shape, jnp.float32)
    if "global_k" in refs:
        chunk = global_tile_keys(refs, tile_keys)
        dq = jax.lax.fori_loop(0, refs["global_k"].shape[0] // chunk, add_global_keys, dq)
    reach = reachable_blocks(head.start + t0, size, plan.left, plan.right, tile_keys, lengths[1] // tile_keys)
    dq = reach.loop(add_keys, dq)
    refs["dq"][...] = (dq * (LN2 / (1.0 - plan.rate))).astype(refs["dq"].dtype)


def grad_bias(plan: FlashPlan, x: FlashOperands, inputs: BackwardInputs) -> jax.Array:
    """The gradient with respect to the bias, float32, in the shape of `x.bias`."""
    assert x.bias is not None
    (B, T, H, _), S, side = x.q.shape, x.k.shape[1], plan.dbias.queries
    shared = x.bias.shape[0] == 1
    examples, groups = (B, 1) if shared else (1, B)
    blocks = T // side, S // side
    tiles = sum(blocks) - 1 if plan.toeplitz else blocks[0] * blocks[1]

    def of_head(a, group=1):
        """All of one head, of the examples that share a bias: a is [B,length,H or G,width] or [B,H,length or 3]."""
        if a.ndim == 4:
            block = (examples, a.shape[1], None, a.shape[3])
            return BlockedArray(a, pl.BlockSpec(block, lambda c, h, e: (e, 0, key_head(h, group), 0)))
        return BlockedArray(a, pl.BlockSpec((examples, None, a.shape[2]), lambda c, h, e: (e, h, 0)))

    def of_example(a):
        if a is None:
            return None
        return BlockedArray(a, pl.BlockSpec((examples, *a.shape[1:]), lambda c, h, e: (e, *[0] * (a.ndim - 1))))

    if plan.toeplitz:
        out = BlockedArray(
            jax.ShapeDtypeStruct((groups, H, tiles, side, side), jnp.float32),
            pl.BlockSpec((None, None, None, side, side), lambda c, h, e: (e, h, c, 0, 0)),
        )
    else:
        out = BlockedArray(
            jax.ShapeDtypeStruct((groups, H, T, S), jnp.float32),
            pl.BlockSpec((None, None, side, side), lambda c, h, e: (e, h, c // blocks[1], c % blocks[1])),
        )
    per_head = x.bias.shape[1] > 1
    bias = pl.BlockSpec((None, None, x.bias.shape[2]), lambda c, h, e: (e, h if per_head else 0, 0))
    dbias = call_kernel(
        partial(_bias_kernel, plan, (T, S), examples),
        name="flash_backward_bias",
        grid=(tiles, H, groups),
        compiler_params=compiler_params(plan.dbias),
        inputs={
            "q": of_head(x.q),
            "do": of_head(inputs.do),
            "k": of_head(x.k, plan.group),
            "v": of_head(x.v, plan.group),
            **{n: of_head(getattr(inputs, n)) for n in STATISTICS},
            "key_bias": of_example(x.key_bias),
            "bias": BlockedArray(x.bias, bias),
            "random_bits": None if x.random_bits is None else of_head(x.random_bits),
            "start": of_example(x.start),
            "query_segments": of_example(x.query_segments),
            "key_segments": of_example(x.key_segments),
        },
        outputs={"dbias": out},
    )["dbias"]
    if plan.toeplitz:
        diagonals = like_operand(jax.ShapeDtypeStruct(x.bias.shape, jnp.float32), x.bias)
        return jax.linear_transpose(partial(_toeplitz_tiles, side), diagonals)(dbias)[0]
    if not per_head:
        dbias = dbias.sum(axis=1, keepdims=True)
    return dbias.reshape(x.bias.shape)


def _toeplitz_tiles(side: int, diagonals: jax.Array) -> jax.Array:
    """[..., T+S-1] -> [..., tiles, side, side]: the bias on each diagonal of square blocks, queries by keys."""
    *lead, count = diagonals.shape
    blocks = jnp.pad(diagonals, [(0, 0)] * len(lead) + [(0, 1)]).reshape(*lead, (count + 1) // side, side)
    windows = jnp.concatenate([blocks[..., :-1, :], blocks[..., 1:, :-1]], axis=-1)
    return skew(jnp.broadcast_to(windows[..., None, :], (*windows.shape[:-1], side, 2 * side - 1)), side)


def _bias_kernel(plan: FlashPlan, lengths: tuple[int, int], examples: int, refs: Refs) -> None:
    side, cell = plan.dbias.queries, pl.program_id(0)
    rows, columns = lengths[0] // side, lengths[1] // side
    count: Index
    if plan.toeplitz:  # all blocks (i, i + shift) inside the score matrix
        shift = cell - (rows - 1)
        first = jnp.maximum(-shift, 0)
        count = jnp.minimum(rows, columns - shift) - first
    else:
        first, count = jax.lax.div(cell, columns), 1
        shift = jax.lax.rem(cell, columns) - first
    offsets = jnp.arange(side, dtype=jnp.int32)

    def add_example(b, total):
        random_bits = [refs["random_bits"][b, i] for i in range(3)] if "random_bits" in refs else None
        segments = None
        if "key_segments" in refs:
            segments = (refs["query_segments"].at[b], refs["key_segments"].at[b])
        start = refs["start"][b] if "start" in refs else 0
        head = HeadContext(start, random_bits, refs["bias"], lengths, segments=segments)

        def add_tile(n, total):
            t0, s0 = (first + n) * side, (first + n + shift) * side
            t, s = (t0 + offsets)[:, None], (s0 + offsets)[None, :]
            queries, keys = pl.ds(t0, side), pl.ds(s0, side)
            key_bias = refs["key_bias"][b, keys][None, :] if "key_bias" in refs else None
            products = product(refs["q"][b, queries, :], refs["k"][b, keys, :].T)
            scores = score_tile(plan, head, products, t, s, key_bias, is_partial=True)
            dp = product(refs["do"][b, queries, :], refs["v"][b, keys, :].T)
            keep = keep_tile(plan, head, t, s) if plan.rate else None
            statistics = (refs[name][b, queries][:, None] for name in STATISTICS)
            return total + _weights_and_score_grads(scores, dp, keep, *statistics)[1]

        # Of square blocks one shift apart, all or none are in reach.
        in_reach = True
        if plan.left is not None:
            in_reach &= shift * side - head.start + side - 1 >= -plan.left
        if plan.right is not None:
            in_reach &= shift * side - head.start - (side - 1) <= plan.right
        steps = count if in_reach is True else jnp.where(in_reach, count, 0)
        return jax.lax.fori_loop(0, steps, add_tile, total)

    total = jax.lax.fori_loop(0, examples, add_example, jnp.zeros((side, side), jnp.float32))
    refs["dbias"][...] = total * (LN2 / (1.0 - plan.rate))
