"""Sequential reads that never ask the system for more bytes than the file has."""

import io
import os
from typing import BinaryIO

from .errors import Malformed


class BoundedReader:
    """Reads `[start, end)` of an open file. A length taken from the file is checked before anything is allocated."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        if not 0 <= start <= end:
            raise Malformed(f"data from byte {start} on", f"{end} bytes")
        self.file, self.position, self.end = file, start, end
        file.seek(start)

    def take(self, count: int) -> bytes:
        if count > self.end - self.position:
            raise Malformed(
                f"{count} more bytes at byte {self.position}",
                f"{self.end - self.position} before the end of that part of the file",
            )
        data = self.file.read(count)
        self.position += count
        if len(data) < count:
            raise Malformed(f"{count} bytes", f"{len(data)}: the file got shorter while it was read")
        return data

    def take_line(self, limit: int) -> bytes:
        """Up to and without a newline, which must come within `limit` bytes."""
        line = self.file.readline(min(limit, self.end - self.position))
        if not line.endswith(b"\n"):
            raise Malformed(f"a line of at most {limit} bytes at byte {self.position}", "a longer or unfinished one")
        self.position += len(line)
        return line[:-1]

    def skip(self, count: int) -> int:
        """Steps over `count` bytes; returns the offset in the file at which they begin."""
        if count > self.end - self.position:
            raise Malformed(f"data up to byte {self.position + count}", f"an end at byte {self.end}")
        begin = self.position
        self.position += count
        self.file.seek(self.position)
        return begin


def file_size(file: io.IOBase) -> int:
    return os.fstat(file.fileno()).st_size
