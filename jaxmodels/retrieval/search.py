"""Maximum inner product search over the rows of an index: blocks on each device, then a merge over devices.

Exact search keeps the order (score descending, id ascending): lists are always joined with the lower ids first, and
`jax.lax.top_k` prefers the earlier of equal scores.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxmodels.retrieval.layout import TILE, Layout

# Rows of one matrix product where it takes a copy of them, for a slice or to convert them: a CPU's copy should stay in
# its cache, a GPU's be little memory. A TPU reads them where they lie.
BLOCK = {"cpu": 1024, "gpu": 16384}
# Scores that are held at once.
SCORE_BYTES = 128 * 2**20

# Scores [n, B], k, valid -> the k best [B, k] of the first `valid` scores and their places [B, k].
Select = Callable[[jax.Array, int, jax.Array | int], tuple[jax.Array, jax.Array]]


def exact(scores, k: int, valid):
    """The k best of scores [n, B], n a multiple of 128, and their places; the earlier of equal scores first.

    In two steps, because a top k of all is slow: the k best groups by their maximum hold the k best scores, and among
    equal scores the earlier ones. One more group, for one maximum may be that of scores from `valid` on.
    """
    n, batch = scores.shape
    size = min(TILE, 2 ** round(math.log2(n / k) / 2))
    if size == 1 or n // size <= k:
        return lax.top_k(_masked(scores, jnp.arange(n)[:, None], valid).T, k)
    groups = scores.reshape(n // size, size, batch)
    largest = _masked(groups.max(axis=1), size * jnp.arange(n // size)[:, None], valid)
    chosen = jnp.sort(lax.top_k(largest.T, k + 1)[1], axis=-1)
    places = (chosen[..., None] * size + jnp.arange(size)).reshape(batch, (k + 1) * size)
    candidates = groups[chosen, :, jnp.arange(batch)[:, None]].reshape(places.shape)
    return _top(_masked(candidates, places, valid), places, k)


def approximate(scores, k: int, valid, *, recall_target: float, total: int):
    """As `exact`, of a part of `total` rows, with that share of the true k best expected overall."""
    scores = _masked(scores, jnp.arange(len(scores))[:, None], valid)
    return lax.approx_max_k(scores.T, k, recall_target=recall_target, reduction_input_size_override=total)


def _masked(scores, places, valid):
    return jnp.where(places < valid, scores, -jnp.inf)


@partial(jax.jit, static_argnames=("layout", "k", "recall_target"))
def search(layout: Layout, values, scales, queries, k: int, recall_target: float | None = None):
    """Scores [B, k] float32 and ids [B, k] int32 of queries [B, D]; exact where no recall is given."""
    select = exact
    if recall_target is not None:
        select = partial(approximate, recall_target=recall_target, total=layout.stored_rows)
    queries = queries.astype(jnp.float32)
    if layout.mesh is None:
        return best_of_shard(layout, values, scales, queries, k, select)

    def of_shard(values, scales, queries):
        best, ids = best_of_shard(layout, values, scales, queries, k, select)
        # The last axis first: its devices hold neighbouring rows. Axis by axis, so that k rows travel and not k times
        # the number of devices.
        for axis in reversed(layout.axes):
            best, ids = (lax.all_gather(x, axis, axis=1, tiled=True) for x in (best, ids))
            best, ids = _top(best, ids, min(k, best.shape[1]))
        return best, ids

    whole = PartitionSpec()
    return jax.shard_map(
        of_shard,
        mesh=layout.mesh,
        in_specs=(layout.spec, layout.spec, whole),
        out_specs=(whole, whole),
        check_vma=False,
    )(values, scales, queries)


def best_of_shard(
    layout: Layout,
    values,
    scales,
    queries,
    k: int,
    select: Select = exact,
    block: int | None = None,
    score_bytes: int = SCORE_BYTES,
):
    """Scores and ids [B, k] of the best rows of one device, of which it may have fewer; inside of `jax.shard_map`, if
    there is a mesh. block: rows of a product, None for those of the platform. score_bytes: that are held at once."""
    first = 0 if layout.mesh is None else lax.axis_index(layout.axes) * len(values)
    block = block or BLOCK.get(layout.platform)
    valid = layout.rows - first
    best, ids = _best(values, scales, queries, min(k, len(values)), valid, block, select, score_bytes)
    return best, ids + first


def _top(scores, ids, k: int):
    best, place = lax.top_k(scores, k)
    return best, jnp.take_along_axis(ids, place, axis=1)


def _best(values, scales, queries, k: int, valid, block: int | None, select: Select, score_bytes: int):
    """The k best of the first `valid` rows, and their numbers."""
    n = len(values)
    span = score_bytes // (4 * len(queries)) // TILE * TILE
    span = min(n, max(span, -(-k // TILE) * TILE, TILE))
    if span == n and values.dtype == jnp.float32:
        block = None

    def of_span(start, count: int):
        found = _scores(values, scales, queries, start, count, min(block or count, count))
        best, ids = select(found, min(k, count), valid - start)
        return best, ids + start

    def joined(one, other):
        return _top(*(jnp.concatenate(pair, axis=1) for pair in zip(one, other, strict=True)), k)

    best = of_span(0, span)
    best = lax.fori_loop(1, n // span, lambda i, best: joined(best, of_span(i * span, span)), best)
    return joined(best, of_span(n - n % span, n % span)) if n % span else best


def _scores(values, scales, queries, start, count: int, block: int):
    """Scores [count, B] of the rows from `start` on."""

    def product(first, count: int):
        rows = lax.dynamic_slice_in_dim(values, first, count).astype(jnp.float32)
        found = jnp.matmul(rows, queries.T, precision=lax.Precision.HIGHEST)
        return found if scales is None else found * lax.dynamic_slice_in_dim(scales, first, count)[:, None]

    def write(i, scores):
        # The last block may begin earlier and compute some scores again.
        offset = jnp.minimum(i * block, count - block)
        return lax.dynamic_update_slice(scores, product(start + offset, block), (offset, 0))

    if block == count:
        return product(start, count)
    return lax.fori_loop(0, -(-count // block), write, jnp.zeros((count, len(queries)), jnp.float32))
