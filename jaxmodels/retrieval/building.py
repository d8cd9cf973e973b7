"""Construction of an index's arrays from batches of embeddings, with one batch in memory at a time."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.typing import ArrayLike

from jaxmodels.retrieval.rows import Array, EncodedRows, Layout, encode_rows, make_layout, validate_embeddings

CHUNK_BYTES = 16 * 2**20


def row_ranges(start: int, stop: int, row_bytes: int) -> Iterator[range]:
    """Splits the rows `start` to `stop - 1` into ranges of at most 16 MiB."""
    step = max(1, CHUNK_BYTES // row_bytes)
    return (range(first, min(first + step, stop)) for first in range(start, stop, step))


def chunks(embeddings: Array) -> Iterator[Array]:
    """Splits embeddings [N, D] into slices of at most 16 MiB."""
    rows, width = embeddings.shape
    return (embeddings[part.start : part.stop] for part in row_ranges(0, rows, 4 * max(width, 1)))


class IndexBuilder:
    """Fills the arrays of an index chunk by chunk, without a second copy of it.

    Each device receives its own rows only.
    """

    def __init__(self, layout: Layout, width: int, dtype: np.dtype):
        self.layout, self.width, self.dtype = layout, width, dtype
        self._values = self._zeros((width,), dtype)
        self._scales = self._zeros((), np.dtype(np.float32)) if dtype == np.int8 else None

    def _shards(self) -> list[tuple[jax.Device | None, int]]:
        """Devices of this process and the first row of each; device None is the default device, uncommitted."""
        if self.layout.sharding is None:
            return [(None, 0)]
        indices = self.layout.sharding.addressable_devices_indices_map((self.layout.stored_rows,))
        return [(device, index[0].start or 0) for device, index in indices.items() if index is not None]

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> list[jax.Array]:
        shape = (self.layout.shard_rows, *shape)
        return [jnp.zeros(shape, dtype, device=device) for device, _ in self._shards()]

    def row_ranges(self) -> Iterator[range]:
        """Yields the rows held by this process, in ranges of at most 16 MiB as float32."""
        for first in sorted({first for _, first in self._shards()}):
            end = min(first + self.layout.shard_rows, self.layout.rows)
            yield from row_ranges(first, end, 4 * self.width)

    def write(self, start: int, values: np.ndarray, scales: np.ndarray | None) -> None:
        """Writes encoded rows from row `start` on; rows of other processes are skipped."""
        for i, (device, first) in enumerate(self._shards()):
            low, high = max(start, first), min(start + len(values), first + self.layout.shard_rows)
            if low < high:
                # Otherwise all chunks would wait in memory for the first transfers to finish.
                self._values[i].block_until_ready()
                part, position = slice(low - start, high - start), np.int32(low - first)
                with _on(device):
                    self._values[i] = _write(self._values[i], values[part], position)
                    if self._scales is not None and scales is not None:
                        self._scales[i] = _write(self._scales[i], scales[part], position)

    def arrays(self) -> tuple[jax.Array, jax.Array | None]:
        """Returns values and scales; nothing may be written afterwards."""
        return self._assemble(self._values), None if self._scales is None else self._assemble(self._scales)

    def _assemble(self, shards: list[jax.Array]) -> jax.Array:
        if self.layout.sharding is None:
            return shards[0]
        shape = (self.layout.stored_rows, *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self.layout.sharding, shards)


def _on(device: jax.Device | None) -> contextlib.AbstractContextManager:
    """Context of a program of one device; the context mesh of `sharding.use` may have others."""
    if device is None:
        return contextlib.nullcontext()
    return jax.set_mesh(Mesh(np.array([device]), ("device",), axis_types=(AxisType.Auto,)))


@partial(jax.jit, donate_argnums=0)
def _write(shard: jax.Array, chunk: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(shard, chunk, start, 0)


def build(
    batches: Iterable[ArrayLike],
    rows: int | None,
    width: int | None,
    mesh: Mesh | None,
    axes: str | tuple[str, ...] | None,
    dtype: np.dtype,
) -> tuple[Layout, jax.Array, jax.Array | None]:
    """Builds layout, values and scales from batches [n, D]; see `DenseIndex.from_batches`."""
    layout = None if rows is None else make_layout(rows, mesh, axes)
    validated = validate_batches(batches, width)
    first = next(validated, None)
    if first is None:
        raise ValueError("no embeddings: an index must have at least one row")
    width = first.shape[1]
    parts = (encode_rows(batch, dtype) for batch in itertools.chain([first], validated))
    if layout is not None:
        return layout, *_fill(parts, layout, width, dtype)
    with tempfile.TemporaryFile() as file:
        scales: list[np.ndarray | None] = []
        for values, row_scales in parts:
            file.write(values.view(np.uint8))
            scales.append(row_scales)
        rows = file.tell() // (width * dtype.itemsize)
        layout = make_layout(rows, mesh, axes)
        file.seek(0)
        return layout, *_fill(_read_back(file, rows, width, dtype, scales), layout, width, dtype)


def _read_back(
    file: IO[bytes], rows: int, width: int, dtype: np.dtype, scales: list[np.ndarray | None]
) -> Iterator[EncodedRows]:
    known = [part for part in scales if part is not None]
    all_scales = np.concatenate(known) if known else None
    for part in row_ranges(0, rows, width * dtype.itemsize):
        values = np.empty((len(part), width), dtype)
        file.readinto(values.view(np.uint8))  # type: ignore[attr-defined]  # IO lacks it; temporary files have it
        yield values, None if all_scales is None else all_scales[part.start : part.stop]


def _fill(
    parts: Iterable[EncodedRows], layout: Layout, width: int, dtype: np.dtype
) -> tuple[jax.Array, jax.Array | None]:
    builder, start = IndexBuilder(layout, width, dtype), 0
    for values, scales in parts:
        if start + len(values) > layout.rows:
            raise ValueError(f"rows={layout.rows}, but the batches hold more; pass their exact sum, or None")
        builder.write(start, values, scales)
        start += len(values)
    if start < layout.rows:
        raise ValueError(f"rows={layout.rows}, but the batches hold {start}; pass their exact sum, or None")
    return builder.arrays()


def validate_batches(batches: Iterable[ArrayLike], width: int | None) -> Iterator[np.ndarray]:
    """Yields batches [n, D] as float32 NumPy arrays, skipping empty ones; raises ValueError for invalid embeddings."""
    start = 0
    for batch in batches:
        array = np.asarray(validate_embeddings(np.asarray(batch), width, start)).astype(np.float32, order="C")
        width = array.shape[1]
        start += len(array)
        if len(array):
            yield array
