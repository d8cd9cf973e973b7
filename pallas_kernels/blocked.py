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
from pallas_kernels.reference import scores, swapped, unnormalised_softmax, weighted_sum

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


def attend(
    q, k, v, *, mask, biases, scale, seed, rate, block: int = BLOCK, sections: int = SECTIONS, globals_: int = GLOBALS
):
    """`reference.attend` without its weights: never forms [B, H, T, S].

    block, sections, globals_: as `BLOCK`, `SECTIONS` and `GLOBALS`.
    """
    block = min(block, q.shape[1])
    options = {"biases": biases, "scale": scale, "seed": seed, "rate": rate, "block": block, "sections": sections}
    reach = _reach(mask, block, k.shape[1])
    if mask.window is None or mask.key_global is None or reach == k.shape[1]:
        return _blocks(q, k, v, None, mask=mask, reach=reach, **options)

    def everywhere(q, k, v):
        return _blocks(q, k, v, None, mask=mask, reach=k.shape[1], **options)

    def columns(q, k, v):
        # In the window part global keys are hidden: each is seen once, as a column.
        local = ~mask.key_global if mask.key_valid is None else mask.key_valid & ~mask.key_global
        windowed = replace(mask, key_valid=local, key_global=None, global_at=None)
        return _blocks(q, k, v, gather_globals(k, v, mask, globals_), mask=windowed, reach=reach, **options)

    count = globals_ if mask.global_at is None else mask.global_at.shape[1]
    if biases or reach + count >= k.shape[1]:
        return everywhere(q, k, v)
    if mask.global_at is not None:
        return columns(q, k, v)
    few = mask.key_global.sum(axis=1).max() <= globals_
    return jax.lax.cond(few, columns, everywhere, q, k, v)


def _reach(mask, block, S):
    """How many consecutive keys hold all that a block of queries sees (static)."""
    if mask.window is None or jnp.ndim(mask.start) > 0:
        return S
    left, right = mask.window
    return min(S, left + block + (0 if mask.causal else right))


def gather_globals(k, v, mask, most: int = GLOBALS):
    """The global keys and values, [B, G, H, K] each, with their positions and which of them are there.

    most: G where the mask does not say their places.
    """
    valid = mask.key_global if mask.key_valid is None else mask.key_valid & mask.key_global
    if mask.global_at is None:
        positions, there = jnp.argsort(~mask.key_global, axis=1, stable=True)[:, :most], True
    else:
        positions, there = jnp.minimum(mask.global_at, k.shape[1] - 1), mask.global_at < k.shape[1]
    pick = positions[:, :, None, None]
    return _Globals(
        jnp.take_along_axis(k, pick, axis=1),
        jnp.take_along_axis(v, pick, axis=1),
        positions.astype(jnp.int32),
        jnp.take_along_axis(valid, positions, axis=1) & there,
    )


def _sections(T, S, block, mask, sections):
    """(first query, end, keys in sight) of the stretches of queries that share a loop: equal blocks, then the rest."""
    shrinks = mask.causal and mask.window is None and mask.query_start is None
    blocks, count = T // block, sections if shrinks else 1
    ends = sorted({block * (blocks * i // count) for i in range(count + 1)} | {T})
    return [(t0, t1, min(S, t1) if shrinks else S) for t0, t1 in pairwise(ends)]


class _Shared(NamedTuple):
    """What all blocks read and what gets a gradient from all of them. k, v, extra_k, extra_v are [B, H, S or G, K]:
    head-major, so that a slice of them is as its products want it."""

    k: jax.Array
    v: jax.Array
    extra: tuple[jax.Array, jax.Array] | None
    biases: tuple
    scale: jax.Array


class _Fixed(NamedTuple):
    """What has no gradient: the rule, the places of the global columns and which are there, and the dropout's seed."""

    mask: Mask
    columns: tuple[jax.Array, jax.Array] | None
    seed: jax.Array | None


class _Plan(NamedTuple):
    """Static: `queries` in the call, of which this section has those from `first` on in blocks of `block`, each over
    `reach` of the `in_sight` first keys."""

    queries: int
    first: int
    block: int
    reach: int
    in_sight: int
    rate: float

    def start(self, t0, mask):
        """The first key in reach of the block that starts at query t0."""
        if self.reach == self.in_sight:
            return 0
        return jnp.clip(mask.start + t0 - mask.window[0], 0, self.in_sight - self.reach)


def _blocks(q, k, v, columns, *, mask, biases, scale, seed, rate, block, sections, reach):
    """Runs the blocks of queries one after the other, each over `reach` keys and the global columns, if any."""
    B, T, H, K = q.shape
    extra = None if columns is None else (swapped(columns.k), swapped(columns.v))
    # Integers have no gradient to collect.
    biases = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32), biases)
    shared = _Shared(swapped(k), swapped(v), extra, biases, jnp.asarray(scale, jnp.float32))
    fixed = _Fixed(mask, None if columns is None else (columns.positions, columns.valid), seed)

    def section(t0, t1, in_sight):
        size = min(block, t1 - t0)
        plan = _Plan(T, t0, size, min(reach, in_sight), in_sight, rate)
        queries = swapped(q[:, t0:t1]).reshape(B, H, (t1 - t0) // size, size, K)
        out = jnp.moveaxis(_section(plan, jnp.moveaxis(queries, 2, 0), shared, fixed), 0, 2)
        return swapped(out.reshape(B, H, t1 - t0, out.shape[-1]))

    return jnp.concatenate([section(*s) for s in _sections(T, k.shape[1], block, mask, sections)], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _section(plan, queries, shared, fixed):
    """[blocks, B, H, block, K] -> [blocks, B, H, block, Kv]."""

    def one(x):
        q, t0 = x
        return _block(plan, q, t0, _reached(plan, shared, fixed, t0), fixed)

    return jax.lax.map(one, (queries, _starts(plan, queries)))


def _forward(plan, queries, shared, fixed):
    return _section(plan, queries, shared, fixed), (queries, shared, fixed)


def _backward(plan, kept, cotangent):
    """Computes each block again and adds its gradients to those of what it read; those of keys and values to a slice,
    in place. (Left to itself, JAX adds arrays of all keys for every block: quadratic in the length.) Sums are float32.
    """
    queries, shared, fixed = kept

    def one(sums, x):
        q, t0, given = x
        reached = _reached(plan, shared, fixed, t0)
        _, pull = jax.vjp(lambda q, reached: _block(plan, q, t0, reached, fixed), q, reached)
        own, parts = pull(given)
        s0 = plan.start(t0, fixed.mask)

        def add(total, part):
            old = jax.lax.dynamic_slice_in_dim(total, s0, plan.reach, axis=2)
            return jax.lax.dynamic_update_slice_in_dim(total, old + part.astype(jnp.float32), s0, axis=2)

        rest = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), sums[2:], tuple(parts[2:]))
        return _Shared(add(sums.k, parts.k), add(sums.v, parts.v), *rest), own

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shared)
    sums, own = jax.lax.scan(one, zeros, (queries, _starts(plan, queries), cotangent))
    return own, jax.tree.map(lambda total, x: total.astype(x.dtype), sums, shared), None


_section.defvjp(_forward, _backward)


def _starts(plan, queries):
    return plan.first + plan.block * jnp.arange(queries.shape[0])


def _reached(plan, shared, fixed, t0):
    """`shared` with only those keys and values that the block at t0 can see."""
    s0 = plan.start(t0, fixed.mask)
    k, v = (jax.lax.dynamic_slice_in_dim(x, s0, plan.reach, axis=2) for x in (shared.k, shared.v))
    return shared._replace(k=k, v=v)


def _block(plan, q, t0, reached, fixed):
    """The rows of one block: q [B, H, block, K] -> [B, H, block, Kv]."""
    B, _, size, _ = q.shape
    s0 = plan.start(t0, fixed.mask)
    part = fixed.mask.block(t0, s0, plan.reach)
    visible = part.dense(B, size, plan.reach)
    positions = s0 + jnp.arange(plan.reach, dtype=jnp.int32)
    keys, values = reached.k, reached.v
    if reached.extra is not None:
        places, there = fixed.columns
        keys, values = (jnp.concatenate(pair, axis=2) for pair in zip((keys, values), reached.extra, strict=True))
        unbounded = Mask(causal=fixed.mask.causal, query_start=fixed.mask.start + t0)
        visible = _join(visible, unbounded.at_keys(size, places, there))
        positions = jnp.concatenate([jnp.broadcast_to(positions, (B, plan.reach)), places], axis=1)
    added = tuple(bias.block(t0, size, s0, plan.reach, plan.queries) for bias in reached.biases)
    exponentials, factor = unnormalised_softmax(scores(q, keys, added, reached.scale, part.start), visible)
    if fixed.seed is not None:
        exponentials = drop(exponentials, fixed.seed, plan.rate, t0 + jnp.arange(size), positions)
    # Normalised last: that is one pass over [B, H, block, reach] less.
    return (weighted_sum(exponentials, values) * factor).astype(q.dtype)


def _join(near, far):
    """Visibility of the keys in reach and of the global columns, side by side."""
    shape = (max(near.shape[0], far.shape[0]), *near.shape[1:3])
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (near, far)], axis=-1)
