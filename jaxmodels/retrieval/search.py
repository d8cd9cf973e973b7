"""Maximum inner product search over the rows of an index: in blocks on each device, then merged over devices.

Exact search orders results by (score descending, id ascending): candidates are always concatenated with the lower ids
first, and `jax.lax.top_k` prefers the earlier of equal scores.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxmodels.retrieval.rows import TILE, Layout

# Rows per matrix product where it copies them, to slice or convert them: a copy should fit into a CPU's cache, and take
# little memory of a GPU. A TPU reads them in place.
BLOCK = {"cpu": 1024, "gpu": 16384}
# Size of the score buffer.
SCORE_BYTES = 128 * 2**20

# Scores [n, B], k, valid -> the k best [B, k] of the first `valid` scores and their positions [B, k].
Select = Callable[[jax.Array, int, jax.Array | int], tuple[jax.Array, jax.Array]]


def exact(scores: jax.Array, k: int, valid: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Selects the k best of scores [n, B], n a multiple of 128, and their positions; ties by position.

    In two steps, because `top_k` over all scores is slow: the k groups with the largest maxima contain the k best
    scores, and the earlier ones of equal scores. One group more is selected, since one maximum may be that of scores
    from `valid` on.
    """
    n, batch = scores.shape
    size = min(TILE, 2 ** round(math.log2(n / k) / 2))
    if size == 1 or n // size <= k:
        return lax.top_k(_mask(scores, jnp.arange(n)[:, None], valid).T, k)
    groups = scores.reshape(n // size, size, batch)
    largest = _mask(groups.max(axis=1), size * jnp.arange(n // size)[:, None], valid)
    selected = jnp.sort(lax.top_k(largest.T, k + 1)[1], axis=-1)
    positions = (selected[..., None] * size + jnp.arange(size)).reshape(batch, (k + 1) * size)
    candidates = groups[selected, :, jnp.arange(batch)[:, None]].reshape(positions.shape)
    return _top_k(_mask(candidates, positions, valid), positions, k)


def approximate(
    scores: jax.Array, k: int, valid: jax.Array | int, *, recall_target: float, total: int
) -> tuple[jax.Array, jax.Array]:
    """Like `exact`, for a part of `total` rows, with an expected recall of `recall_target` over all rows."""
    scores = _mask(scores, jnp.arange(len(scores))[:, None], valid)
    best, positions = lax.approx_max_k(scores.T, k, recall_target=recall_target, reduction_input_size_override=total)
    return best, positions


def _mask(scores: jax.Array, positions: jax.Array, valid: jax.Array | int) -> jax.Array:
    return jnp.where(positions < valid, scores, -jnp.inf)


@partial(jax.jit, static_argnames=("layout", "k", "recall_target"))
def search(
    layout: Layout,
    values: jax.Array,
    scales: jax.Array | None,
    queries: jax.Array,
    k: int,
    recall_target: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns scores [B, k] float32 and ids [B, k] int32 of queries [B, D]; exact if `recall_target` is None."""
    select: Select = exact
    if recall_target is not None:
        select = partial(approximate, recall_target=recall_target, total=layout.stored_rows)
    queries = queries.astype(jnp.float32)
    if layout.mesh is None:
        return best_of_shard(layout, values, scales, queries, k, select)

    def of_shard(values: jax.Array, scales: jax.Array | None, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
        best, ids = best_of_shard(layout, values, scales, queries, k, select)
        # The last axis first: its devices hold adjacent rows. Axis by axis, to send k rows instead of k times the
        # number of devices.
        for axis in reversed(layout.axes):
            best, ids = (lax.all_gather(x, axis, axis=1, tiled=True) for x in (best, ids))
            best, ids = _top_k(best, ids, min(k, best.shape[1]))
        return best, ids

    replicated = PartitionSpec()
    return jax.shard_map(
        of_shard,
        mesh=layout.mesh,
        in_specs=(layout.spec, layout.spec, replicated),
        out_specs=(replicated, replicated),
        check_vma=False,
    )(values, scales, queries)


def best_of_shard(
    layout: Layout,
    values: jax.Array,
    scales: jax.Array | None,
    queries: jax.Array,
    k: int,
    select: Select = exact,
    block: int | None = None,
    score_bytes: int = SCORE_BYTES,
) -> tuple[jax.Array, jax.Array]:
    """Searches the rows of one device; with a mesh, must be called inside `jax.shard_map`.

    Args:
      layout: layout of the index.
      values: this device's rows [n, D].
      scales: this device's scales [n], or None.
      queries: [B, D] float32.
      k: number of results.
      select: selects the k best scores.
      block: rows per matrix product; None for the platform's default.
      score_bytes: size of the score buffer.

    Returns:
      Scores and ids [B, min(k, n)].
    """
    first = 0 if layout.mesh is None else lax.axis_index(layout.axes) * len(values)
    block = block or BLOCK.get(layout.platform)
    valid = layout.rows - first
    best, ids = _search_rows(values, scales, queries, min(k, len(values)), valid, block, select, score_bytes)
    return best, ids + first


def _top_k(scores: jax.Array, ids: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    best, positions = lax.top_k(scores, k)
    return best, jnp.take_along_axis(ids, positions, axis=1)


def _search_rows(
    values: jax.Array,
    scales: jax.Array | None,
    queries: jax.Array,
    k: int,
    valid: jax.Array | int,
    block: int | None,
    select: Select,
    score_bytes: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the k best of the first `valid` rows and their positions."""
    n = len(values)
    span = score_bytes // (4 * len(queries)) // TILE * TILE
    span = min(n, max(span, -(-k // TILE) * TILE, TILE))
    if span == n and values.dtype == jnp.float32:
        block = None

    def search_span(start: jax.Array | int, count: int) -> tuple[jax.Array, jax.Array]:
        scores = _scores(values, scales, queries, start, count, min(block or count, count))
        best, ids = select(scores, min(k, count), valid - start)
        return best, ids + start

    def merge(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores, ids = (jnp.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
        return _top_k(scores, ids, k)

    best = search_span(0, span)
    best = lax.fori_loop(1, n // span, lambda i, best: merge(best, search_span(i * span, span)), best)
    return merge(best, search_span(n - n % span, n % span)) if n % span else best


def _scores(
    values: jax.Array,
    scales: jax.Array | None,
    queries: jax.Array,
    start: jax.Array | int,
    count: int,
    block: int,
) -> jax.Array:
    """Returns scores [count, B] of the rows from `start` on."""

    def product(first: jax.Array | int, count: int) -> jax.Array:
        rows = lax.dynamic_slice_in_dim(values, first, count).astype(jnp.float32)
        scores = jnp.matmul(rows, queries.T, precision=lax.Precision.HIGHEST)
        return scores if scales is None else scores * lax.dynamic_slice_in_dim(scales, first, count)[:, None]

    def write(i: jax.Array, scores: jax.Array) -> jax.Array:
        # The last block may start earlier and recompute some scores.
        offset = jnp.minimum(i * block, count - block)
        return lax.dynamic_update_slice(scores, product(start + offset, block), (offset, 0))

    if block == count:
        return product(start, count)
    return lax.fori_loop(0, -(-count // block), write, jnp.zeros((count, len(queries)), jnp.float32))
