"""Reading of untrusted files: by several threads at once, sequentially within bounds, and as JSON."""

import json
import os
import stat
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from .validation import DOWNLOAD_AGAIN, SAVE_AGAIN, FormatError, TensorFileError, describe

# A header or an index of 200,000 tensors takes about this much. The safetensors library allows 100 MB, which as
# malicious JSON becomes 2 GB of Python objects.
MAX_JSON = 25_000_000
# A single thread is limited by the memcpy of one core; four read GPT-2 small on two cores in 0.09 s instead of 0.14.
CHUNK_BYTES, NUM_THREADS = 4 * 2**20, 4


class OpenedFile:
    """A file that stays open until it is garbage collected, even if its name is given to another file.

    Can be read by several threads at once, and pickled.

    Raises:
      OSError: the file cannot be opened.
      FormatError: a folder, a device or a pipe.
    """

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
        self._close = weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            self._close()
            raise FormatError("a file", "a folder, a pipe or a device")
        self.size, self._state = status.st_size, self._current_state()

    def __reduce__(self) -> tuple[Callable[..., "OpenedFile"], tuple[Path, tuple[int, ...]]]:
        return _reopen, (self.path, self._state)

    def _current_state(self) -> tuple[int, ...]:
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def stream(self) -> BinaryIO:
        """Returns a stream from the first byte on. Streams share a position, so only one can be used at a time."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.fdopen(os.dup(self.descriptor), "rb")

    def read_into(self, offset: int, target: memoryview) -> int:
        """Reads bytes from `offset` on; returns their number, less than the size of `target` only at the file's end."""
        done = 0
        while done < len(target):  # preadv may return early
            count = os.preadv(self.descriptor, [target[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def check_unchanged(self) -> None:
        """Raises TensorFileError if the file was modified after it was opened."""
        if self._current_state() != self._state:
            raise TensorFileError(
                self.path,
                f"the file of {self.size} bytes that was opened",
                f"{self.current_size()} bytes, modified since",
                "load it again while no program writes to it",
            )

    def current_size(self) -> int:
        return os.fstat(self.descriptor).st_size


def open_file(path: Path) -> OpenedFile:
    """Opens a file; like `OpenedFile`, but raises TensorFileError instead of FormatError."""
    try:
        return OpenedFile(path)
    except FormatError as error:
        raise error.at(path) from None


def _reopen(path: Path, state: tuple[int, ...]) -> OpenedFile:
    file = open_file(path)
    if file._state != state:
        raise TensorFileError(path, "the file that was opened before", "a different one", DOWNLOAD_AGAIN)
    return file


def read_exactly(file: OpenedFile, name: str, offset: int, target: memoryview, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Fills `target` with the bytes from `offset` on, with several threads if it is large.

    Args:
      file: the file.
      name: name of the tensor, for error messages.
      offset: of the first byte.
      target: memory to fill.
      chunk_bytes: bytes that a thread reads at a time.

    Raises:
      TensorFileError: the file is too short, or was modified after it was opened.
    """
    if len(target) <= chunk_bytes:
        return _read_chunk(file, name, offset, target)
    starts = range(0, len(target), chunk_bytes)
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # not a shared pool: threads do not survive a fork
        chunks = pool.map(
            lambda start: _read_chunk(file, name, offset + start, target[start : start + chunk_bytes]), starts
        )
    for _ in chunks:
        pass  # raises the exceptions of the threads


def _read_chunk(file: OpenedFile, name: str, offset: int, target: memoryview) -> None:
    done = file.read_into(offset, target)
    if done < len(target):
        raise TensorFileError(
            file.path,
            f"{len(target)} bytes at byte {offset} for tensor {describe(name)}",
            f"{done}, in a file that now has {file.current_size()} bytes",
            DOWNLOAD_AGAIN,
        )
    file.check_unchanged()


class BoundedReader:
    """Sequential reader of the bytes [start, end) of a stream. Checks every length before it allocates memory."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        if not 0 <= start <= end:
            raise FormatError(f"data from byte {start} on", f"{end} bytes")
        self.file, self.position, self.end = file, start, end
        file.seek(start)

    def take(self, count: int) -> bytes:
        """Reads `count` bytes."""
        if count > self.end - self.position:
            raise FormatError(
                f"{count} more bytes at byte {self.position}",
                f"{self.end - self.position} before the end of that part of the file",
            )
        data = self.file.read(count)
        self.position += count
        if len(data) < count:
            raise FormatError(f"{count} bytes", f"{len(data)}: the file was truncated while it was read")
        return data

    def take_line(self, max_bytes: int) -> bytes:
        """Reads a line of at most `max_bytes` bytes, and returns it without the newline."""
        line = self.file.readline(min(max_bytes, self.end - self.position))
        if not line.endswith(b"\n"):
            raise FormatError(
                f"a line of at most {max_bytes} bytes at byte {self.position}", "a longer or unfinished one"
            )
        self.position += len(line)
        return line[:-1]

    def skip(self, count: int) -> int:
        """Skips `count` bytes; returns the offset of the first one in the file."""
        if count > self.end - self.position:
            raise FormatError(f"data up to byte {self.position + count}", f"an end at byte {self.end}")
        begin = self.position
        self.position += count
        self.file.seek(self.position)
        return begin


def file_size(file: BinaryIO) -> int:
    """Returns the size in bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def read_json_object(path: Path, what: str) -> dict:
    """Reads a file that contains one JSON object of at most `MAX_JSON` bytes.

    Args:
      path: the file.
      what: description of the contents, for error messages.

    Raises:
      FormatError: see `parse_json_object`; or the file is larger.
    """
    file = OpenedFile(path)
    if file.size > MAX_JSON:
        raise FormatError(f"{what} of at most {MAX_JSON} bytes", f"{file.size}")
    with file.stream() as stream:
        return parse_json_object(stream.read(), what)


def parse_json_object(data: bytes, what: str) -> dict:
    """Parses a JSON object.

    Raises:
      FormatError: not valid JSON, not an object, or an object with a repeated key.
    """

    def to_dict(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise FormatError(f"{what} with each key once", "a repeated key", SAVE_AGAIN)
        return dict(pairs)

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=to_dict)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} as JSON", f"{len(data)} bytes that are not ({describe(str(error))})") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{what} as a JSON object", describe(parsed))
    return parsed
