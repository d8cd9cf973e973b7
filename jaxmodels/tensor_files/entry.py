"""One tensor of a checkpoint file: what it is, where its bytes lie, and how to read it alone."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .errors import DOWNLOAD_AGAIN, TensorFileError
from .layout import meaningful_strides, reach, row_major
from .reader import file_size

# One reader is as fast as one core copies; with four GPT-2 small takes 0.09 s on two cores where it took 0.14.
PIECE_BYTES, READERS = 4 * 2**20, 4
BAND_BYTES = 2**20  # larger ones are slower: they leave the processor's cache


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
            self._fill(0, _bytes_of(out))
        else:
            self._read_view(0, self.strides, out)
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

    def _read_view(self, start: int, strides: tuple[int, ...], target: np.ndarray) -> None:
        """Fills `target` with the view of these strides that begins `start` bytes into the stored elements."""
        itemsize = self.dtype.itemsize
        slow = int(np.argmax(strides))
        step, strides = strides[slow] * itemsize, strides[:slow] + strides[slow + 1 :]
        target = np.moveaxis(target, slow, 0)
        row_bytes = reach(target.shape[1:], strides) * itemsize
        if step >= row_bytes > BAND_BYTES:
            for index, row in enumerate(target):
                self._read_view(start + index * step, strides, row)
            return
        # Bands along the slowest stored axis, so that a transposed matrix needs no second whole copy in memory. Rows
        # that overlap are one band, for band by band the same bytes would be read again and again.
        rows = len(target) if row_bytes > step else min(len(target), max(1, BAND_BYTES // step))
        stored = np.empty((rows - 1) * step + row_bytes, np.uint8)
        byte_strides = (step, *(stride * itemsize for stride in strides))
        for first in range(0, len(target), rows):
            band = target[first : first + rows]
            self._fill(start + first * step, memoryview(stored[: (len(band) - 1) * step + row_bytes]))
            band[...] = np.ndarray(band.shape, self.dtype, buffer=stored, strides=byte_strides)

    def _fill(self, start: int, target: memoryview) -> None:
        """Bytes `start` and on of the stored elements, until `target` is full."""
        for offset, count in self.spans:
            if not target:
                return
            if start >= count:
                start -= count
                continue
            piece = target[: count - start]
            self._read_exactly(offset + start, piece)
            target, start = target[len(piece) :], 0

    def _read_exactly(self, offset: int, target: memoryview) -> None:
        if len(target) <= PIECE_BYTES:
            return self._read_piece(offset, target)
        starts = range(0, len(target), PIECE_BYTES)
        with ThreadPoolExecutor(READERS) as pool:  # of this call alone: threads do not survive a fork
            pieces = pool.map(lambda at: self._read_piece(offset + at, target[at : at + PIECE_BYTES]), starts)
        for _ in pieces:
            pass  # raises what a reader raised

    def _read_piece(self, offset: int, target: memoryview) -> None:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            done = 0
            while done < len(target):  # the system may stop early
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
