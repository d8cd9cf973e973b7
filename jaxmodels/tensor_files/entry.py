"""A tensor of a checkpoint file that is read on demand."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .file_io import OpenedFile, open_file, read_exactly
from .validation import (
    SAVE_AGAIN,
    FormatError,
    contiguous_strides,
    describe,
    normalized_strides,
    view_extent,
)

BAND_BYTES = 2**20  # larger bands are slower: they exceed the CPU cache
COMPARE_BYTES = 2**23  # bytes compared at a time

# Reads bytes from an offset on into a buffer.
Fill = Callable[[int, memoryview], None]


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor of a checkpoint file; its data stays on disk until `read`.

    Attributes:
      name: name of the tensor, as torch spells it.
      shape, dtype: of the array that `read` returns; bfloat16 and float8 are `ml_dtypes` types.
      path: the file.
      spans: (offset, byte count) of the parts of the file that contain the stored elements, in order.
      strides: strides of the tensor as a view of the stored elements, in elements; None is C order.
      big_endian: byte order of the stored elements.
      file: the opened file, so that a file which replaces it is not read; None: it is opened by `read`.
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
        """Reads the tensor.

        Uses plain reads, because the pages of a memory map would count as memory of this process. A tensor that is not
        stored in C order is read in bands of 1 MiB. Can be called from several threads at once.

        Args:
          out: array to read into: C-contiguous, writable, of this shape and dtype. None: a new array.

        Returns:
          The array.

        Raises:
          TensorFileError: the file is too short, or was modified after it was opened.
          ValueError: an unsuitable `out`.
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
        """Whether shape, dtype and bits are equal.

        Reads nothing for two names of the same bytes, and otherwise only up to the first difference.
        """
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        if self.renamed(other.name) == other:
            return True
        if self.strides is not None or other.strides is not None or self.big_endian != other.big_endian:
            return self.read().tobytes() == other.read().tobytes()
        size = math.prod(self.shape) * self.dtype.itemsize
        left, right = np.empty((2, min(size, COMPARE_BYTES)), np.uint8)
        for start in range(0, size, COMPARE_BYTES):
            count = min(COMPARE_BYTES, size - start)
            self.fill(start, left[:count].data)
            other.fill(start, right[:count].data)
            if not np.array_equal(left[:count], right[:count]):
                return False
        return True

    def renamed(self, name: str) -> "TensorEntry":
        return dataclasses.replace(self, name=name)

    def transposed(self) -> "TensorEntry":
        """Returns the same tensor with its axes reversed."""
        shape, strides = self.shape[::-1], (self.strides or contiguous_strides(self.shape))[::-1]
        return dataclasses.replace(self, shape=shape, strides=normalized_strides(shape, strides))

    def fill(self, start: int, target: memoryview) -> None:
        """Fills `target` with the bytes of the stored elements from `start` on."""
        file = self.file or open_file(self.path)
        for offset, count in self.spans:
            if not target:
                return
            if start >= count:
                start -= count
                continue
            part = target[: count - start]
            read_exactly(file, self.name, offset + start, part)
            target, start = target[len(part) :], 0


def read_view(
    fill: Fill, start: int, strides: tuple[int, ...], target: np.ndarray, band_bytes: int = BAND_BYTES
) -> None:
    """Reads a strided view in bands, so that a transposed matrix needs no second copy in memory.

    Args:
      fill: reads bytes of the stored elements.
      start: offset of the view in the stored elements, in bytes.
      strides: of the view, in elements, one for each axis of `target`.
      target: array to fill.
      band_bytes: bytes read at a time, unless slices along the slowest axis overlap.
    """
    itemsize = target.dtype.itemsize
    slowest = int(np.argmax(strides))
    step, strides = strides[slowest] * itemsize, strides[:slowest] + strides[slowest + 1 :]
    target = np.moveaxis(target, slowest, 0)
    slice_bytes = view_extent(target.shape[1:], strides) * itemsize
    if step >= slice_bytes > band_bytes:
        for index, part in enumerate(target):
            read_view(fill, start + index * step, strides, part, band_bytes)
        return
    # Overlapping slices are read as one band: in several, the same bytes would be read repeatedly.
    count = len(target) if slice_bytes > step else min(len(target), max(1, band_bytes // step))
    stored = np.empty((count - 1) * step + slice_bytes, np.uint8)
    byte_strides = (step, *(stride * itemsize for stride in strides))
    for first in range(0, len(target), count):
        band = target[first : first + count]
        fill(start + first * step, stored[: (len(band) - 1) * step + slice_bytes].data)
        band[...] = np.ndarray(band.shape, target.dtype, buffer=stored, strides=byte_strides)


def _bytes_of(array: np.ndarray) -> memoryview:
    # As uint8, because NumPy does not export buffers of ml_dtypes types.
    return array.reshape(-1).view(np.uint8).data


def flax_to_torch(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Converts names and layouts of Flax modules to those of torch modules.

    Renames `kernel`, `embedding` and `scale` to `weight`, and transposes matrices named `kernel`. Flax stores the
    kernel of a Dense as [in, out], torch the weight of a Linear as [out, in]. Hugging Face's Flax Conv1D stores
    [out, in] and torch's [in, out], so the same transposition converts both (transformers:
    modeling_flax_pytorch_utils.py).
    """
    converted: dict[str, TensorEntry] = {}
    for entry in map(_flax_to_torch, entries.values()):
        if entry.name in converted:
            raise FormatError("a different torch name for each tensor", f"{describe(entry.name)} twice", SAVE_AGAIN)
        converted[entry.name] = entry
    return converted


def _flax_to_torch(entry: TensorEntry) -> TensorEntry:
    module, dot, last = entry.name.rpartition(".")
    if last == "kernel" and len(entry.shape) == 2:
        return entry.transposed().renamed(f"{module}{dot}weight")
    if last in ("embedding", "scale"):
        return entry.renamed(f"{module}{dot}weight")
    return entry
