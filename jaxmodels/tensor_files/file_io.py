"""A file that stays the one that was opened, whatever file its name is given to later."""

import io
import os
import stat
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from .validation import DOWNLOAD_AGAIN, FormatError, TensorFileError, describe

CHANGED = "load it again, from files that nothing writes into"


class OpenedFile:
    """Open until nobody holds it any more; read from several threads at any place.

    Raises OSError where there is none, FormatError for a device or a pipe.
    """

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
        self._close = weakref.finalize(self, os.close, self.descriptor)
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            self._close()
            raise FormatError("a file", "a folder, a pipe or a device")
        self.size, self._state = found.st_size, self._now()

    def __reduce__(self):
        return _reopened, (self.path, self._state)

    def _now(self) -> tuple[int, ...]:
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def stream(self) -> BinaryIO:
        """From the first byte on; one at a time."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self.descriptor), "rb")

    def read_into(self, offset: int, target: memoryview) -> int:
        """Bytes from that place on; returns how many there were, fewer than `target` takes only at the file's end."""
        done = 0
        while done < len(target):  # the system may stop early
            count = os.preadv(self.descriptor, [target[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def check_unchanged(self) -> None:
        """Raises TensorFileError where the file was written into after it was opened."""
        if self._now() != self._state:
            raise TensorFileError(
                self.path,
                f"the file of {self.size} bytes that was opened",
                f"one of {self.size_now()} that was written into since",
                CHANGED,
            )

    def size_now(self) -> int:
        return os.fstat(self.descriptor).st_size


def open_file(path: Path) -> OpenedFile:
    """Raises TensorFileError, unlike `OpenedFile`, which does not know what the file is for."""
    try:
        return OpenedFile(path)
    except FormatError as error:
        raise error.at(path) from None


def _reopened(path: Path, state: tuple[int, ...]) -> OpenedFile:
    file = open_file(path)
    if file._state != state:
        raise TensorFileError(path, "the file that was opened before", "another one", DOWNLOAD_AGAIN)
    return file


# One reader is as fast as one core copies; with four GPT-2 small takes 0.09 s on two cores where it took 0.14.
PIECE_BYTES, READERS = 4 * 2**20, 4


def read_exactly(file: OpenedFile, name: str, offset: int, target: memoryview, piece_bytes: int = PIECE_BYTES) -> None:
    """Fills `target` from that byte of the file on.

    Args:
      name: of the tensor, for the error. piece_bytes: that one thread reads at a time.

    Raises:
      TensorFileError: the file ends before, or something was written into it since it was opened.
    """
    if len(target) <= piece_bytes:
        return _read_piece(file, name, offset, target)
    starts = range(0, len(target), piece_bytes)
    with ThreadPoolExecutor(READERS) as pool:  # of this call alone: threads do not survive a fork
        pieces = pool.map(lambda at: _read_piece(file, name, offset + at, target[at : at + piece_bytes]), starts)
    for _ in pieces:
        pass  # raises what a reader raised


def _read_piece(file: OpenedFile, name: str, offset: int, target: memoryview) -> None:
    done = file.read_into(offset, target)
    if done < len(target):
        raise TensorFileError(
            file.path,
            f"{len(target)} bytes at byte {offset} for tensor {describe(name)}",
            f"{done}, in a file that has {file.size_now()} bytes now",
            DOWNLOAD_AGAIN,
        )
    file.check_unchanged()


class BoundedReader:
    """Reads `[start, end)` of an open file. A length taken from the file is checked before anything is allocated."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        if not 0 <= start <= end:
            raise FormatError(f"data from byte {start} on", f"{end} bytes")
        self.file, self.position, self.end = file, start, end
        file.seek(start)

    def take(self, count: int) -> bytes:
        if count > self.end - self.position:
            raise FormatError(
                f"{count} more bytes at byte {self.position}",
                f"{self.end - self.position} before the end of that part of the file",
            )
        data = self.file.read(count)
        self.position += count
        if len(data) < count:
            raise FormatError(f"{count} bytes", f"{len(data)}: the file got shorter while it was read")
        return data

    def take_line(self, limit: int) -> bytes:
        """Up to and without a newline, which must come within `limit` bytes."""
        line = self.file.readline(min(limit, self.end - self.position))
        if not line.endswith(b"\n"):
            raise FormatError(f"a line of at most {limit} bytes at byte {self.position}", "a longer or unfinished one")
        self.position += len(line)
        return line[:-1]

    def skip(self, count: int) -> int:
        """Steps over `count` bytes; returns the offset in the file at which they begin."""
        if count > self.end - self.position:
            raise FormatError(f"data up to byte {self.position + count}", f"an end at byte {self.end}")
        begin = self.position
        self.position += count
        self.file.seek(self.position)
        return begin


def file_size(file: io.IOBase) -> int:
    return os.fstat(file.fileno()).st_size
