"""Attention that holds the scores of one block of queries at a time, forward and backward.

A block of attention is attention with a shifted mask and bias, so a block is computed by the pieces of the reference.
Under a window a block looks only at the keys it can reach, so cost grows with T and not with T * S. Global keys then
come as extra columns: as many as the mask's `global_at` has, or else up to `GLOBALS`. Three cases look at all keys
instead: more global keys than that, global keys together with a bias, and a window with a `query_start` per example.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.dropout import drop
from pallas_kernels.mask import Mask
from pallas_kernels.reference import scores, softmax, weighted_sum

BLOCK = 128
GLOBALS = 128
# A causal call runs in this many sections, each over no more keys than its last query sees: 62 % of the products.
SECTIONS = 4


class _Globals(NamedTuple):
    """The global keys of each example, gathered: arrays [B, G, ...]."""

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    valid: jax.Array


def attend(q, k, v, *, mask, biases, scale, seed, rate):
    """`reference.attend` without its weights: never forms [B, H, T, S]."""
    block = min(BLOCK, q.shape[1])
    options = {"biases": biases, "scale": scale, "seed": seed, "rate": rate, "block": block}
    reach = _reach(mask, block, k.shape[1])
    if mask.window is None or mask.key_global is None or reach == k.shape[1]:
        return _blocks(q, k, v, None, mask=mask, reach=reach, **options)

    def everywhere(q, k, v):
        return _blocks(q, k, v, None, mask=mask, reach=k.shape[1], **options)

    def columns(q, k, v):
        # In the window part global keys are hidden: each is seen once, as a column.
        local = ~mask.key_global if mask.key_valid is None else mask.key_valid & ~mask.key_global
        windowed = replace(mask, key_valid=local, key_global=None, global_at=None)
        return _blocks(q, k, v, gather_globals(k, v, mask), mask=windowed, reach=reach, **options)

    count = GLOBALS if mask.global_at is None else mask.global_at.shape[1]
    if biases or reach + count >= k.shape[1]:
        return everywhere(q, k, v)
    if mask.global_at is not None:
        return columns(q, k, v)
    few = mask.key_global.sum(axis=1).max() <= GLOBALS
    return jax.lax.cond(few, columns, everywhere, q, k, v)


def _reach(mask, block, S):
    """How many consecutive keys hold all that a block of queries sees (static)."""
    if mask.window is None or jnp.ndim(mask.start) > 0:
        return S
    left, right = mask.window
    return min(S, left + block + (0 if mask.causal else right))


def gather_globals(k, v, mask):
    """The global keys and values, [B, G, H, K] each, with their positions and which of them are there."""
    valid = mask.key_global if mask.key_valid is None else mask.key_valid & mask.key_global
    if mask.global_at is None:
        positions, there = jnp.argsort(~mask.key_global, axis=1, stable=True)[:, :GLOBALS], True
    else:
        positions, there = jnp.minimum(mask.global_at, k.shape[1] - 1), mask.global_at < k.shape[1]
    pick = positions[:, :, None, None]
    return _Globals(
        jnp.take_along_axis(k, pick, axis=1),
        jnp.take_along_axis(v, pick, axis=1),
        positions.astype(jnp.int32),
        jnp.take_along_axis(valid, positions, axis=1) & there,
    )


def _sections(T, S, block, mask):
    """(first query, end, keys in sight) of the stretches of queries that share a loop: equal blocks, then the rest."""
    shrinks = mask.causal and mask.window is None and mask.query_start is None
    blocks, count = T // block, SECTIONS if shrinks else 1
    ends = sorted({block * (blocks * i // count) for i in range(count + 1)} | {T})
    return [(t0, t1, min(S, t1) if shrinks else S) for t0, t1 in pairwise(ends)]


def _blocks(q, k, v, columns, *, mask, biases, scale, seed, rate, block, reach):
    """Runs the blocks of queries one after the other, each over `reach` keys and the global columns, if any."""
    (B, T), S = q.shape[:2], k.shape[1]
    # The loop sums the gradients of what all blocks share in its own dtype: make that float32 for bfloat16 calls too.
    shared = jax.tree.map(_widen, (k, v, columns, biases))

    @partial(jax.checkpoint, static_argnums=2)
    def rows(q, t0, in_sight):
        keys, values, extra, added = shared
        size = min(reach, in_sight)
        s0 = jnp.clip(mask.start + t0 - mask.window[0], 0, in_sight - size) if size < in_sight else 0
        keys, values = (jax.lax.dynamic_slice_in_dim(x, s0, size, axis=1) for x in (keys, values))
        part = mask.block(t0, s0, size)
        visible = part.dense(B, q.shape[1], size)
        positions = s0 + jnp.arange(size, dtype=jnp.int32)
        if extra is not None:
            keys, values = (
                jnp.concatenate([keys, extra.k], axis=1),
                jnp.concatenate([values, extra.v], axis=1),
            )
            unbounded = Mask(causal=mask.causal, query_start=mask.start + t0)
            visible = _join(visible, unbounded.at_keys(q.shape[1], extra.positions, extra.valid))
            positions = jnp.concatenate([jnp.broadcast_to(positions, (B, size)), extra.positions], axis=1)
        keys, values = keys.astype(k.dtype), values.astype(v.dtype)
        added = tuple(bias.block(t0, q.shape[1], s0, size, T) for bias in added)
        weights = softmax(scores(q, keys, added, scale, part.start), visible)
        if seed is not None:
            weights = drop(weights, seed, rate, t0 + jnp.arange(q.shape[1]), positions)
        return weighted_sum(weights, values, q.dtype)

    def loop(t0, t1, in_sight):
        size = min(block, t1 - t0)
        starts = jnp.arange(t0, t1, size)
        queries = q[:, t0:t1].reshape(B, len(starts), size, *q.shape[2:]).swapaxes(0, 1)
        out = jax.lax.map(lambda x: rows(*x, in_sight), (queries, starts))
        return out.swapaxes(0, 1).reshape(B, t1 - t0, *out.shape[3:])

    return jnp.concatenate([loop(*section) for section in _sections(T, S, block, mask)], axis=1)


def _widen(x):
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _join(near, far):
    """Visibility of the keys in reach and of the global columns, side by side."""
    shape = (max(near.shape[0], far.shape[0]), *near.shape[1:3])
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (near, far)], axis=-1)
