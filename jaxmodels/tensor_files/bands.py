"""A strided view of stored elements, read in bands: a transposed matrix needs no second whole copy in memory."""

from collections.abc import Callable

import numpy as np

from .layout import reach

BAND_BYTES = 2**20  # larger ones are slower: they leave the processor's cache

# From a byte of the stored elements on, until the target is full.
Fill = Callable[[int, memoryview], None]


def read_view(
    fill: Fill, start: int, strides: tuple[int, ...], target: np.ndarray, band_bytes: int = BAND_BYTES
) -> None:
    """Fills `target` with the view of these strides that begins `start` bytes into the stored elements.

    strides: in elements, one for each axis of `target`. band_bytes: the most that is read at a time, where rows do not
    overlap.
    """
    itemsize = target.dtype.itemsize
    slow = int(np.argmax(strides))
    step, strides = strides[slow] * itemsize, strides[:slow] + strides[slow + 1 :]
    target = np.moveaxis(target, slow, 0)
    row_bytes = reach(target.shape[1:], strides) * itemsize
    if step >= row_bytes > band_bytes:
        for index, row in enumerate(target):
            read_view(fill, start + index * step, strides, row, band_bytes)
        return
    # Bands along the slowest stored axis. Rows that overlap are one band, for band by band the same bytes would be read
    # again and again.
    rows = len(target) if row_bytes > step else min(len(target), max(1, band_bytes // step))
    stored = np.empty((rows - 1) * step + row_bytes, np.uint8)
    byte_strides = (step, *(stride * itemsize for stride in strides))
    for first in range(0, len(target), rows):
        band = target[first : first + rows]
        fill(start + first * step, memoryview(stored[: (len(band) - 1) * step + row_bytes]))
        band[...] = np.ndarray(band.shape, target.dtype, buffer=stored, strides=byte_strides)
