"""Blocked attention in XLA: holds the scores of one block of queries at a time, forward and backward.

A block of attention is attention with a shifted mask and bias, so it is computed by the functions of the reference.
Under a window a block reads only the keys it can reach, so cost grows with T and not with T * S. Global keys then come
as additional columns: as many as the mask's `global_at` has, or else up to `MAX_GLOBAL_KEYS`. Three cases read all keys
instead: more global keys than that, global keys together with a bias, and a window with a `query_start` per example.

The attention weights of a window, for callers that request them, are computed in the same way.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.bias import Bias, Biases
from pallas_kernels.derivatives import with_reverse_pass
from pallas_kernels.dropout import Dropout, drop_probabilities, seed_and_rate
from pallas_kernels.mask import Mask
from pallas_kernels.reference import (
    attention_scores,
    masked_softmax,
    sum_over,
    swap_length_and_heads,
    unnormalised_softmax,
    weighted_sum,
)
from pallas_kernels.sharding import Axes

BLOCK = 128
MAX_GLOBAL_KEYS = 128
# A causal call runs in this many sections, each over no more keys than its last query sees: 62 % of the products.
SECTIONS = 4

# An offset into an axis, which may be traced.
Index = jax.Array | int


class GlobalKeys(NamedTuple):
    """The global keys of each example, gathered.

    Attributes:
      k: [B, N, G, K].
      v: [B, N, G, Kv].
      positions: int32 [B, N].
      valid: bool [B, N], False for padding and unused columns.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    valid: jax.Array


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    seed: jax.Array | None,
    rate: float,
    keys_over: Axes = None,
    block: int = BLOCK,
    sections: int = SECTIONS,
    max_global_keys: int = MAX_GLOBAL_KEYS,
) -> jax.Array:
    """Attention without forming [B, H, T, S].

    Args:
      q, k, v, mask, biases, scale, seed, rate, keys_over: As in `reference.attend`.
      block: Number of queries whose scores are held at a time.
      sections: Number of sections of a causal call.
      max_global_keys: Number of columns for global keys where the mask has no `global_at`.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    block = min(block, q.shape[1])
    reach = _reach(mask, block, k.shape[1])
    run = partial(_run_blocks, biases=biases, scale=scale, seed=seed, rate=rate, block=block, sections=sections)
    run = partial(run, keys_over=keys_over)
    if mask.window is None or mask.key_global is None or reach == k.shape[1]:
        return run(q, k, v, None, mask=mask, reach=reach)

    def with_all_keys(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return run(q, k, v, None, mask=mask, reach=k.shape[1])

    def with_columns(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        windowed = replace(mask, key_valid=_local_keys(mask), key_global=None, global_at=None)
        return run(q, k, v, gather_global_keys(k, v, mask, max_global_keys), mask=windowed, reach=reach)

    count = max_global_keys if mask.global_at is None else mask.global_at.shape[1]
    if biases or reach + count >= k.shape[1]:
        return with_all_keys(q, k, v)
    if mask.global_at is not None:
        return with_columns(q, k, v)
    few = mask.key_global.sum(axis=1).max() <= max_global_keys
    return jax.lax.cond(few, with_columns, with_all_keys, q, k, v)


def _local_keys(mask: Mask) -> jax.Array | None:
    """`key_valid` of the window, in which global keys are masked: each of them is seen once, as a column."""
    if mask.key_global is None:
        return mask.key_valid
    return ~mask.key_global if mask.key_valid is None else mask.key_valid & ~mask.key_global


def _reach(mask: Mask, block: int, S: int) -> int:
    """The static number of consecutive keys that hold all that a block of queries sees."""
    if mask.window is None or jnp.ndim(mask.start) > 0:
        return S
    left, right = mask.window
    return min(S, left + block + (0 if mask.causal else right))


def gather_global_keys(k: jax.Array, v: jax.Array, mask: Mask, max_global_keys: int = MAX_GLOBAL_KEYS) -> GlobalKeys:
    """Gathers the global keys and values.

    Args:
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: With `key_global`.
      max_global_keys: N where the mask has no `global_at`.

    Returns:
      The gathered keys, values, positions and validity flags.
    """
    assert mask.key_global is not None
    valid = mask.key_global if mask.key_valid is None else mask.key_valid & mask.key_global
    used: jax.Array | bool
    if mask.global_at is None:
        positions, used = jnp.argsort(~mask.key_global, axis=1, stable=True)[:, :max_global_keys], True
    else:
        positions, used = jnp.minimum(mask.global_at, k.shape[1] - 1), mask.global_at < k.shape[1]
    pick = positions[:, :, None, None]
    return GlobalKeys(
        jnp.take_along_axis(k, pick, axis=1),
        jnp.take_along_axis(v, pick, axis=1),
        positions.astype(jnp.int32),
        jnp.take_along_axis(valid, positions, axis=1) & used,
    )


def _sections(T: int, S: int, block: int, mask: Mask, sections: int) -> list[tuple[int, int, int]]:
    """(first query, end, visible keys) of the sections of queries that share a loop: equal blocks, then the rest."""
    shrinks = mask.causal and mask.window is None and mask.query_start is None
    blocks, count = T // block, sections if shrinks else 1
    ends = sorted({block * (blocks * i // count) for i in range(count + 1)} | {T})
    return [(t0, t1, min(S, t1) if shrinks else S) for t0, t1 in pairwise(ends)]


class _SharedInputs(NamedTuple):
    """What all blocks read and what gets a gradient from all of them.

    Attributes:
      k: [B, G, S, K], head-major, so that a slice has the layout of its products.
      v: [B, G, S, Kv].
      extra: Global keys [B, G, N, K] and values [B, G, N, Kv], or None.
      biases: With floating leaves.
      scale: float32 scalar.
    """

    k: jax.Array
    v: jax.Array
    extra: tuple[jax.Array, jax.Array] | None
    biases: Biases
    scale: jax.Array


class _FixedInputs(NamedTuple):
    """What has no gradient: the mask, positions and validity of the global columns, and the dropout's seed."""

    mask: Mask
    columns: tuple[jax.Array, jax.Array] | None
    seed: jax.Array | None


class _BlockedPlan(NamedTuple):
    """Static description of a section.

    Attributes:
      num_queries: Queries of the whole call.
      first: First query of the section.
      block: Queries of a block.
      reach: Keys that a block reads.
      num_keys: Keys that the section sees; each block reads `reach` consecutive ones of them.
      rate: Dropout's rate.
      keys_over: As in `attend`.
    """

    num_queries: int
    first: int
    block: int
    reach: int
    num_keys: int
    rate: float
    keys_over: Axes

    def start(self, t0: jax.Array, mask: Mask) -> Index:
        """The first key that the block of the queries from t0 on reads."""
        if self.reach == self.num_keys:
            return 0
        assert mask.window is not None
        return jnp.clip(mask.start + t0 - mask.window[0], 0, self.num_keys - self.reach)


def _run_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    columns: GlobalKeys | None,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    seed: jax.Array | None,
    rate: float,
    keys_over: Axes,
    block: int,
    sections: int,
    reach: int,
) -> jax.Array:
    """Runs the blocks of queries one after the other, each over `reach` keys and the global columns, if any."""
    B, T, H, K = q.shape
    extra = None if columns is None else (swap_length_and_heads(columns.k), swap_length_and_heads(columns.v))
    # Integers have no gradient to collect.
    biases = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32), biases)
    shared = _SharedInputs(
        swap_length_and_heads(k), swap_length_and_heads(v), extra, biases, jnp.asarray(scale, jnp.float32)
    )
    fixed = _FixedInputs(mask, None if columns is None else (columns.positions, columns.valid), seed)

    def run_section(t0: int, t1: int, num_keys: int) -> jax.Array:
        size = min(block, t1 - t0)
        plan = _BlockedPlan(T, t0, size, min(reach, num_keys), num_keys, rate, keys_over)
        queries = swap_length_and_heads(q[:, t0:t1]).reshape(B, H, (t1 - t0) // size, size, K)
        out = jnp.moveaxis(_run_section(plan, (jnp.moveaxis(queries, 2, 0), shared), fixed), 0, 2)
        return swap_length_and_heads(out.reshape(B, H, t1 - t0, out.shape[-1]))

    return jnp.concatenate([run_section(*s) for s in _sections(T, k.shape[1], block, mask, sections)], axis=1)


def _section(plan: _BlockedPlan, inputs: tuple[jax.Array, _SharedInputs], fixed: _FixedInputs) -> jax.Array:
    """[blocks, B, H, block, K] -> [blocks, B, H, block, Kv]."""
    queries, shared = inputs

    @jax.checkpoint
    def run_block(x):
        q, t0 = x
        return _block(plan, q, t0, _slice_keys(plan, shared, fixed, t0), fixed)

    return jax.lax.map(run_block, (queries, _block_starts(plan, queries)))


def _section_reverse(
    plan: _BlockedPlan, inputs: tuple[jax.Array, _SharedInputs], fixed: _FixedInputs, cotangent: jax.Array
) -> tuple[jax.Array, _SharedInputs]:
    """Recomputes each block and adds its gradients to those of what it read; of keys and values to a slice, in place.

    (JAX's own transposition would add arrays of all keys for every block: quadratic in the length.) Sums are float32.
    """
    queries, shared = inputs

    @jax.checkpoint
    def run_block(sums, x):
        q, t0, dout = x
        block_inputs = _slice_keys(plan, shared, fixed, t0)
        _, pullback = jax.vjp(lambda q, inputs: _block(plan, q, t0, inputs, fixed), q, block_inputs)
        dq, grads = pullback(dout)
        s0 = plan.start(t0, fixed.mask)

        def add_to_slice(total, part):
            old = jax.lax.dynamic_slice_in_dim(total, s0, plan.reach, axis=2)
            return jax.lax.dynamic_update_slice_in_dim(total, old + part.astype(jnp.float32), s0, axis=2)

        rest = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), sums[2:], tuple(grads[2:]))
        return _SharedInputs(add_to_slice(sums.k, grads.k), add_to_slice(sums.v, grads.v), *rest), dq

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), shared)
    sums, dq = jax.lax.scan(run_block, zeros, (queries, _block_starts(plan, queries), cotangent))
    return dq, jax.tree.map(lambda total, x: total.astype(x.dtype), sums, shared)


_run_section = with_reverse_pass(_section, _section_reverse)


def _block_starts(plan: _BlockedPlan, queries: jax.Array) -> jax.Array:
    return plan.first + plan.block * jnp.arange(queries.shape[0])


def _slice_keys(plan: _BlockedPlan, shared: _SharedInputs, fixed: _FixedInputs, t0: jax.Array) -> _SharedInputs:
    """`shared` with only those keys and values that the block at t0 can see."""
    s0 = plan.start(t0, fixed.mask)
    k, v = (jax.lax.dynamic_slice_in_dim(x, s0, plan.reach, axis=2) for x in (shared.k, shared.v))
    return shared._replace(k=k, v=v)


def _block(plan: _BlockedPlan, q: jax.Array, t0: jax.Array, inputs: _SharedInputs, fixed: _FixedInputs) -> jax.Array:
    """The output of one block: q [B, H, block, K] -> [B, H, block, Kv]."""
    B, _, size, _ = q.shape
    s0 = plan.start(t0, fixed.mask)
    block_mask = fixed.mask.block(t0, size, s0, plan.reach)
    visible = block_mask.dense(B, size, plan.reach)
    positions = s0 + jnp.arange(plan.reach, dtype=jnp.int32)
    keys, values = inputs.k, inputs.v
    if inputs.extra is not None:
        assert fixed.columns is not None
        global_positions, global_valid = fixed.columns
        keys, values = (jnp.concatenate(pair, axis=2) for pair in zip((keys, values), inputs.extra, strict=True))
        unbounded = Mask(causal=fixed.mask.causal, query_start=fixed.mask.start + t0)
        visible = _concatenate_visible(visible, unbounded.visible(size, global_positions, global_valid))
        positions = jnp.concatenate([jnp.broadcast_to(positions, (B, plan.reach)), global_positions], axis=1)
    biases: list[Bias] = [bias.block(t0, size, s0, plan.reach, plan.num_queries) for bias in inputs.biases]
    scores = attention_scores(q, keys, tuple(biases), inputs.scale, block_mask.start)
    exponentials, factor = unnormalised_softmax(scores, visible, plan.keys_over)
    if fixed.seed is not None:
        exponentials = drop_probabilities(exponentials, fixed.seed, plan.rate, t0 + jnp.arange(size), positions)
    # Normalised last: that is one pass over [B, H, block, reach] less.
    return (sum_over(weighted_sum(exponentials, values), plan.keys_over) * factor).astype(q.dtype)


def _concatenate_visible(local: jax.Array, columns: jax.Array) -> jax.Array:
    """Visibility of the keys in reach and of the global columns, concatenated over keys."""
    shape = (max(local.shape[0], columns.shape[0]), *local.shape[1:3])
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (local, columns)], axis=-1)


def sliding_window_weights(
    q: jax.Array,
    k: jax.Array,
    *,
    mask: Mask,
    scale: jax.Array | float | None = None,
    dropout: Dropout | None = None,
    block: int = BLOCK,
) -> jax.Array:
    """The weights of `attention(q, k, ..., mask=mask)` under a symmetric window (w, w), in banded form.

    The first N columns are the global keys in the order of `mask.global_at` (N = 0 without); column N+c is the key at
    t - w + c, zero where there is none, where it is padding and where it is global (it has a column already). Besides
    the result, one block of queries is in memory at a time, so memory grows with T, not with T * T.

    Args:
      q: [B, T, H, K].
      k: [B, T, G, K].
      mask: With a window (w, w), not causal, without query_start; global keys as `global_at`.
      scale: As in `attention`.
      dropout: As in `attention`.
      block: Number of queries whose weights are computed at a time.

    Returns:
      [B, H, T, N+2w+1] in q.dtype.

    Raises:
      ValueError: Any other mask.

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> pallas_kernels.sliding_window_weights(q, k, mask=pallas_kernels.Mask(window=(3, 3))).shape  # 7 keys per query
      (2, 4, 16, 7)
    """
    (B, T, H, K), S = q.shape, k.shape[1]
    symmetric = mask.window is not None and mask.window[0] == mask.window[1] and not mask.causal
    if not symmetric or mask.query_start is not None or (mask.key_global is None) != (mask.global_at is None) or T != S:
        raise ValueError(
            "sliding_window_weights requires a symmetric window over as many keys as queries, with global keys as "
            f"global_at; got {T} queries, {S} keys, window={mask.window}, causal={mask.causal}, "
            f"{'a' if mask.query_start is not None else 'no'} query_start, "
            f"{'a' if mask.key_global is not None else 'no'} key_global and "
            f"{'a' if mask.global_at is not None else 'no'} global_at"
        )
    assert mask.window is not None
    mask.validate(B, T, S)
    w, scale = mask.window[0], K**-0.5 if scale is None else scale
    block = min(block, T)
    reach = min(S, 2 * w + block)
    extra = None if mask.global_at is None else gather_global_keys(k, k, mask)
    windowed = replace(mask, key_valid=_local_keys(mask), key_global=None, global_at=None)
    seed, rate = seed_and_rate(dropout)

    def block_weights(t0: jax.Array) -> jax.Array:
        queries = jax.lax.dynamic_slice_in_dim(q, t0, block, axis=1)
        s0 = jnp.clip(t0 - w, 0, S - reach)
        keys = jax.lax.dynamic_slice_in_dim(k, s0, reach, axis=1)
        visible = windowed.block(t0, block, s0, reach).dense(B, block, reach)
        visible = jnp.broadcast_to(visible, (B, 1, block, reach))
        positions = jnp.broadcast_to(s0 + jnp.arange(reach, dtype=jnp.int32), (B, reach))
        if extra is not None:
            keys = jnp.concatenate([extra.k, keys], axis=1)
            columns = jnp.broadcast_to(extra.valid[:, None, None], (B, 1, block, extra.valid.shape[1]))
            visible = jnp.concatenate([columns, visible], axis=-1)
            positions = jnp.concatenate([extra.positions, positions], axis=1)
        scores = attention_scores(swap_length_and_heads(queries), swap_length_and_heads(keys), (), scale, 0)
        weights = masked_softmax(scores, visible)
        if seed is not None:
            weights = drop_probabilities(weights, seed, rate, t0 + jnp.arange(block), positions)
        count = keys.shape[1] - reach
        # Column c of query t is the key at t - w + c.
        index = t0 + jnp.arange(block)[:, None] - w + jnp.arange(2 * w + 1) - s0
        band = jnp.take_along_axis(weights[..., count:], jnp.clip(index, 0, reach - 1)[None, None], axis=-1)
        band = jnp.where((index >= 0) & (index < reach), band, 0)
        return jnp.concatenate([weights[..., :count], band], axis=-1).astype(q.dtype)

    # The last block ends with the last query; queries that two blocks share have the same weights in both.
    starts = jnp.minimum(jnp.arange(0, T, block), T - block)
    out = jax.lax.map(block_weights, starts)  # [blocks, B, H, block, columns]
    out = out.transpose(1, 2, 0, 3, 4)
    whole = (T // block) * block
    first = out[:, :, : whole // block].reshape(B, H, whole, -1)
    return jnp.concatenate([first, out[:, :, -1, block - (T - whole) :]], axis=2) if whole < T else first
