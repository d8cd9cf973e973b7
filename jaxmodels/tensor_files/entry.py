"""One tensor of a checkpoint file: what it is, where its bytes lie, and how to read it alone."""

import dataclasses
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import DOWNLOAD_AGAIN, TensorFileError
from .layout import meaningful_strides, reach, row_major
from .reader import file_size

BAND_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor that stays on disk until `read`.

    name: the tensor's name, in torch's spelling.
    shape, dtype: as `read` returns it; bfloat16 and float8 are `ml_dtypes` types.
    path, spans: the file, and the (offset, byte count) of the pieces that hold the stored elements, in order.
    strides: of the view into the stored elements, in elements; None means C order.
    big_endian: the stored elements' byte order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    path: Path
    spans: tuple[tuple[int, int], ...]
    strides: tuple[int, ...] | None = None
    big_endian: bool = False

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """The tensor's values, read from disk straight into `out`, or into a new array.

        Plain file reads and no memory map: mapped pages would count as this process's memory. A stored layout that is
        not C order goes through bands of 16 MiB. Safe to call from several threads.

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
        with open(self.path, "rb", buffering=0) as file:
            if self.strides is None:
                self._fill(file, 0, _bytes_of(out))
            else:
                self._read_strided(file, out)
        if self.big_endian:
            unit = self.dtype.itemsize // (2 if self.dtype.kind == "c" else 1)
            out.reshape(-1).view(f"u{unit}").byteswap(inplace=True)
        return out

    def renamed(self, name: str) -> "TensorEntry":
        return dataclasses.replace(self, name=name)

    def transposed(self) -> "TensorEntry":
        """The same stored elements with the axes in reverse order."""
        shape, strides = self.shape[::-1], (self.strides or row_major(self.shape))[::-1]
        return dataclasses.replace(self, shape=shape, strides=meaningful_strides(shape, strides))

    def _read_strided(self, file: BinaryIO, out: np.ndarray) -> None:
        # Bands along the slowest stored axis: a transposed matrix never needs a second whole copy in memory.
        slow = int(np.argmax(self.strides))
        itemsize = self.dtype.itemsize
        step = self.strides[slow] * itemsize
        shape = self.shape[:slow] + self.shape[slow + 1 :]
        strides = self.strides[:slow] + self.strides[slow + 1 :]
        target = np.moveaxis(out, slow, 0)
        rows = max(1, BAND_BYTES // max(1, step))
        for start in range(0, len(target), rows):
            band = target[start : start + rows]
            stored = np.empty((len(band) - 1) * step + reach(shape, strides) * itemsize, np.uint8)
            self._fill(file, start * step, memoryview(stored))
            byte_strides = (step, *(stride * itemsize for stride in strides))
            band[...] = np.ndarray(band.shape, self.dtype, buffer=stored, strides=byte_strides)

    def _fill(self, file: BinaryIO, start: int, target: memoryview) -> None:
        """Bytes `start` and on of the stored elements, until `target` is full."""
        for offset, count in self.spans:
            if not target:
                return
            if start >= count:
                start -= count
                continue
            piece = target[: count - start]
            self._read_exactly(file, offset + start, piece)
            target, start = target[len(piece) :], 0

    def _read_exactly(self, file: BinaryIO, offset: int, target: memoryview) -> None:
        file.seek(offset)
        done = 0
        while done < len(target):  # the system reads at most 2 GiB at a time
            count = file.readinto(target[done:])
            if not count:
                raise TensorFileError(
                    self.path,
                    f"{len(target)} bytes at byte {offset} for tensor {self.name!r}",
                    f"{done}, in a file that has {file_size(file)} bytes now",
                    DOWNLOAD_AGAIN,
                )
            done += count


def _bytes_of(array: np.ndarray) -> memoryview:
    # Through uint8, because numpy exports no buffer of the ml_dtypes types.
    return memoryview(array.reshape(-1).view(np.uint8))
