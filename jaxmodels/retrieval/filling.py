"""Putting rows onto devices piece by piece, so that no second copy of the index is ever held."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.retrieval.layout import Layout

PIECE_BYTES = 16 * 2**20


def ranges(start: int, stop: int, row_bytes: int) -> Iterator[range]:
    """Row numbers `start` to `stop - 1` in ranges of at most 16 MiB."""
    step = max(1, PIECE_BYTES // row_bytes)
    return (range(first, min(first + step, stop)) for first in range(start, stop, step))


class Filling:
    """The arrays of an index while they are filled. Each device gets its own rows and nothing else."""

    def __init__(self, layout: Layout, width: int, dtype: np.dtype):
        self.layout, self.width, self.dtype = layout, width, dtype
        self._values = self._zeros((width,), dtype)
        self._scales = self._zeros((), np.dtype(np.float32)) if dtype == np.int8 else None

    def _places(self) -> list[tuple[jax.Device | None, int]]:
        """The devices of this process and the first row of each; None: the default device, uncommitted."""
        if self.layout.mesh is None:
            return [(None, 0)]
        indices = self.layout.sharding.addressable_devices_indices_map((self.layout.stored_rows,))
        return [(device, rows.start or 0) for device, (rows,) in indices.items()]

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> list[jax.Array]:
        shape = (self.layout.shard_rows, *shape)
        return [jnp.zeros(shape, dtype, device=device) for device, _ in self._places()]

    def ranges(self) -> Iterator[range]:
        """The numbers of the rows that this process holds, in pieces."""
        for first in sorted({first for _, first in self._places()}):
            end = min(first + self.layout.shard_rows, self.layout.rows)
            yield from ranges(first, end, 4 * self.width)

    def put(self, start: int, values: np.ndarray, scales: np.ndarray | None) -> None:
        """Stored rows from row `start` on; what other processes hold is passed over."""
        for i, (_, first) in enumerate(self._places()):
            low, high = max(start, first), min(start + len(values), first + self.layout.shard_rows)
            if low < high:
                # Otherwise all pieces would wait in memory for the first ones to arrive.
                self._values[i].block_until_ready()
                part, place = slice(low - start, high - start), np.int32(low - first)
                self._values[i] = _write(self._values[i], values[part], place)
                if scales is not None:
                    self._scales[i] = _write(self._scales[i], scales[part], place)

    def arrays(self) -> tuple[jax.Array, jax.Array | None]:
        """Values and scales. Nothing can be put in afterwards."""
        return self._whole(self._values), None if self._scales is None else self._whole(self._scales)

    def _whole(self, parts: list[jax.Array]) -> jax.Array:
        if self.layout.mesh is None:
            return parts[0]
        shape = (self.layout.stored_rows, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self.layout.sharding, parts)


@partial(jax.jit, donate_argnums=0)
def _write(part, piece, start):
    return lax.dynamic_update_slice_in_dim(part, piece, start, 0)
