"""What the methods of an index are given: one clear error each for what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.messages import brief


def traced(*trees) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def checked_rows(embeddings, width: int | None = None, start: int = 0):
    """An array [N, D] of real and, where they are known, finite numbers; `start` is the number of its first row."""
    embeddings = _array(embeddings)
    if embeddings.ndim != 2 or not embeddings.shape[1] or embeddings.shape[1] != (width or embeddings.shape[1]):
        raise ValueError(
            f"embeddings are [rows, {width or 'width'}]; from row {start} on they are of shape {embeddings.shape}"
        )
    kind = embeddings.dtype
    if not _real(kind):
        raise ValueError(f"embeddings are real numbers, got {kind}")
    if not traced(embeddings) and jnp.issubdtype(kind, jnp.floating):
        _check_finite(embeddings, start)
    return embeddings


def _check_finite(rows, start: int) -> None:
    xp = jnp if isinstance(rows, jax.Array) else np
    with np.errstate(over="ignore"):  # a float64 may be too large for float32, and so becomes infinite
        finite = np.asarray(xp.isfinite(rows.astype(np.float32, copy=False)).all(axis=1))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"embeddings are finite numbers; row {start + bad[0]} holds a NaN or an infinity, as do {len(bad) - 1} "
            f"more of these {len(rows)} rows; look for it in the encoder that made them"
        )


def checked_queries(queries, k: int, size: int, width: int):
    """An array [B, D] of at least one query, for the k best of an index of `size` rows of that width."""
    queries = _array(queries)
    if queries.ndim != 2 or queries.shape[1] != width:
        raise ValueError(
            f"queries are [batch, {width}], as wide as this index, got an array of shape {queries.shape}; were they "
            "made by the encoder that belongs to it?"
        )
    if not len(queries):
        raise ValueError(f"queries are [batch, {width}] with at least one row, got an array of shape {queries.shape}")
    if not _real(queries.dtype):
        raise ValueError(f"queries are real numbers, got {queries.dtype}")
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= size:
        raise ValueError(f"k is between 1 and the {size} rows of this index, got {brief(k)}")
    return queries


def checked_ids(ids, least: int, size: int):
    """An array of integers from `least` to `size - 1`, where they are known."""
    ids = _array(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids are integers, got {ids.dtype}")
    if not traced(ids) and ids.size and not least <= ids.min() <= ids.max() < size:
        raise ValueError(f"ids are between {least} and {size - 1}, got {ids.min()} to {ids.max()}")
    return ids


def _real(kind) -> bool:
    return jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)


def _array(array):
    return array if isinstance(array, jax.Array) else np.asarray(array)
