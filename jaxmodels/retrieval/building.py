"""From batches of embeddings to the arrays of an index, with one batch in hand at a time."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.retrieval.arguments import checked_rows
from jaxmodels.retrieval.filling import Filling, ranges
from jaxmodels.retrieval.layout import Layout, make_layout
from jaxmodels.retrieval.rows import Stored, stored


def pieces(embeddings) -> Iterator:
    """[N, D] in slices of at most 16 MiB."""
    rows, width = embeddings.shape
    return (embeddings[part.start : part.stop] for part in ranges(0, rows, 4 * max(width, 1)))


def build(
    batches: Iterable,
    rows: int | None,
    width: int | None,
    mesh: Mesh | None,
    axes: str | tuple[str, ...] | None,
    dtype: np.dtype,
) -> tuple[Layout, jax.Array, jax.Array | None]:
    """Layout, values and scales of batches [n, D]; see `DenseIndex.from_batches`."""
    layout = None if rows is None else make_layout(rows, mesh, axes)
    batches = checked(batches, width)
    first = next(batches, None)
    if first is None:
        raise ValueError("there are no embeddings: an index has at least one row")
    width = first.shape[1]
    parts = (stored(batch, dtype) for batch in itertools.chain([first], batches))
    if layout is not None:
        return layout, *_filled(parts, layout, width, dtype)
    with tempfile.TemporaryFile() as file:
        scales = []
        for values, row_scales in parts:
            file.write(values.view(np.uint8))
            scales.append(row_scales)
        rows = file.tell() // (width * dtype.itemsize)
        layout = make_layout(rows, mesh, axes)
        file.seek(0)
        return layout, *_filled(_read_back(file, rows, width, dtype, scales), layout, width, dtype)


def _read_back(file, rows: int, width: int, dtype: np.dtype, scales: list) -> Iterator[Stored]:
    all_scales = None if scales[0] is None else np.concatenate(scales)
    for part in ranges(0, rows, width * dtype.itemsize):
        values = np.empty((len(part), width), dtype)
        file.readinto(values.view(np.uint8))
        yield values, None if all_scales is None else all_scales[part.start : part.stop]


def _filled(parts: Iterable[Stored], layout: Layout, width: int, dtype: np.dtype):
    filling, start = Filling(layout, width, dtype), 0
    for values, scales in parts:
        if start + len(values) > layout.rows:
            raise ValueError(f"rows={layout.rows}, but the batches hold more; give their exact sum, or None")
        filling.put(start, values, scales)
        start += len(values)
    if start < layout.rows:
        raise ValueError(f"rows={layout.rows}, but the batches hold {start}; give their exact sum, or None")
    return filling.arrays()


def checked(batches: Iterable, width: int | None) -> Iterator[np.ndarray]:
    """Batches [n, D] as float32 on the host, those of no rows left out."""
    start = 0
    for batch in batches:
        batch = checked_rows(np.asarray(batch), width, start).astype(np.float32, order="C")
        width = batch.shape[1]
        start += len(batch)
        if len(batch):
            yield batch
