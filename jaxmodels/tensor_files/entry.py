"""One tensor of a checkpoint file: what it is, where its bytes lie, and how to read it alone."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .file_io import OpenedFile, open_file, read_exactly
from .validation import SAVE_AGAIN, FormatError, describe, meaningful_strides, reach, row_major

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


PIECE = 2**23  # bytes that are compared at a time


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor that stays on disk until `read`.

    name: the tensor's name, in torch's spelling.
    shape, dtype: as `read` returns it; bfloat16 and float8 are `ml_dtypes` types.
    path, spans: the file, and the (offset, byte count) of the pieces that hold the stored elements, in order.
    strides: of the view into the stored elements, in elements; None means C order.
    big_endian: the stored elements' byte order.
    file: the file, where it is open already: then another one that takes its name is not read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    spans: tuple[tuple[int, int], ...]
    strides: tuple[int, ...] | None = None
    big_endian: bool = False
    file: OpenedFile | None = dataclasses.field(default=None, compare=False, repr=False)

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """The tensor's values, read from disk straight into `out`, or into a new array.

        Plain file reads and no memory map: mapped pages would count as this process's memory. A stored layout that is
        not C order goes through bands of 1 MiB. Safe to call from several threads.

        out: C-contiguous, writable, of this shape and dtype; ValueError otherwise.
        Raises TensorFileError where the file no longer holds what it held when it was opened.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif (
            out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous or not out.flags.writeable
        ):
            raise ValueError(
                f"{self.name}: `out` must be a writable C-contiguous {self.dtype} array of shape {self.shape}; it is "
                f"{out.dtype}, {out.shape}, contiguous: {out.flags.c_contiguous}, writable: {out.flags.writeable}"
            )
        if self.strides is None:
            self.fill(0, _bytes_of(out))
        else:
            read_view(self.fill, 0, self.strides, out)
        if self.big_endian:
            unit = self.dtype.itemsize // (2 if self.dtype.kind == "c" else 1)
            out.reshape(-1).view(f"u{unit}").byteswap(inplace=True)
        return out

    def same_values(self, other: "TensorEntry") -> bool:
        """Shape, type and bits are equal. Nothing is read of two names for the same bytes, else up to a difference."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        if self.renamed(other.name) == other:
            return True
        if self.strides is not None or other.strides is not None or self.big_endian != other.big_endian:
            return self.read().tobytes() == other.read().tobytes()
        size = math.prod(self.shape) * self.dtype.itemsize
        left, right = np.empty((2, min(size, PIECE)), np.uint8)
        for start in range(0, size, PIECE):
            count = min(PIECE, size - start)
            self.fill(start, left[:count].data)
            other.fill(start, right[:count].data)
            if not np.array_equal(left[:count], right[:count]):
                return False
        return True

    def renamed(self, name: str) -> "TensorEntry":
        return dataclasses.replace(self, name=name)

    def transposed(self) -> "TensorEntry":
        """The same stored elements with the axes in reverse order."""
        shape, strides = self.shape[::-1], (self.strides or row_major(self.shape))[::-1]
        return dataclasses.replace(self, shape=shape, strides=meaningful_strides(shape, strides))

    def fill(self, start: int, target: memoryview) -> None:
        """Bytes `start` and on of the stored elements, until `target` is full."""
        file = self.file or open_file(self.path)
        for offset, count in self.spans:
            if not target:
                return
            if start >= count:
                start -= count
                continue
            piece = target[: count - start]
            read_exactly(file, self.name, offset + start, piece)
            target, start = target[len(piece) :], 0


def _bytes_of(array: np.ndarray) -> memoryview:
    # Through uint8, because numpy exports no buffer of the ml_dtypes types.
    return memoryview(array.reshape(-1).view(np.uint8))


def to_torch(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Renames `kernel`, `embedding` and `scale` to `weight`, and transposes matrices named `kernel`.

    Flax stores a Dense kernel as [in, out], torch a Linear weight as [out, in]. Hugging Face's Flax Conv1D stores
    [out, in] and torch's [in, out], so the same transposition serves both. (transformers:
    modeling_flax_pytorch_utils.py)
    """
    renamed: dict[str, TensorEntry] = {}
    for entry in map(_to_torch, entries.values()):
        if entry.name in renamed:
            raise FormatError("a different torch name for each tensor", f"{describe(entry.name)} twice", SAVE_AGAIN)
        renamed[entry.name] = entry
    return renamed


def _to_torch(entry: TensorEntry) -> TensorEntry:
    module, dot, last = entry.name.rpartition(".")
    if last == "kernel" and len(entry.shape) == 2:
        return entry.transposed().renamed(f"{module}{dot}weight")
    if last in ("embedding", "scale"):
        return entry.renamed(f"{module}{dot}weight")
    return entry
