"""A file that stays the one that was opened, whatever file its name is given to later."""

import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO

from .errors import DOWNLOAD_AGAIN, Malformed, TensorFileError

CHANGED = "load it again, from files that nothing writes into"


class OpenedFile:
    """Open until nobody holds it any more; read from several threads at any place.

    Raises OSError where there is none, Malformed for a device or a pipe.
    """

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
        self._close = weakref.finalize(self, os.close, self.descriptor)
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            self._close()
            raise Malformed("a file", "a folder, a pipe or a device")
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


def opened(path: Path) -> OpenedFile:
    """Raises TensorFileError, unlike `OpenedFile`, which does not know what the file is for."""
    try:
        return OpenedFile(path)
    except Malformed as error:
        raise error.at(path) from None


def _reopened(path: Path, state: tuple[int, ...]) -> OpenedFile:
    file = opened(path)
    if file._state != state:
        raise TensorFileError(path, "the file that was opened before", "another one", DOWNLOAD_AGAIN)
    return file
