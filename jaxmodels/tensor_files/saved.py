"""Reading a folder that others may save into at the same time: all files are those of one save, or it is an error.

Nothing is written and nothing is locked, so a folder that may only be read will do.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import TensorFileError
from .order import READY, read_order

TRIES, PAUSE = 20, 0.02  # seconds, more of them after each try

Result = TypeVar("Result")


class SavedFolder:
    """The files of a folder as the last finished save left them, by their names: `folder / "config.json"`.

    Raises TensorFileError for a folder that says that a save of it is not finished, in words that are not ours.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self._order = read_order(self.path)
        self._seen: dict[str, tuple[Path, tuple[int, ...] | None]] = {}

    def __truediv__(self, name: str) -> Path:
        """Where the file is; a path at which there is nothing if the folder has no such file."""
        found = self._look(name)
        self._seen.setdefault(name, found)
        return found[0]

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Those of all files and folders, in order."""
        order = self._order
        there = {name for name in os.listdir(self.path) if name != READY and not (order and order.hides(name))}
        return sorted(there | (order.files if order else frozenset()))

    def is_current(self) -> bool:
        """Whether every file that was asked for is still the same and where it was, and what was missing still is.

        One that was put in place meanwhile may have been taken for missing.
        """
        now = SavedFolder(self.path)
        return all(now._look(name) == found for name, found in self._seen.items())

    def _look(self, name: str) -> tuple[Path, tuple[int, ...] | None]:
        places = [self.path / name]
        if self._order is not None and name in self._order.files:
            places.insert(0, self.path / READY / name)
        elif self._order is not None and self._order.hides(name):
            places = [self.path / READY / name]
        for path in places:
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no name that a file can have
                continue
            return path, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        return places[-1], None


def read_saved(folder: str | os.PathLike | SavedFolder, read: Callable[[SavedFolder], Result]) -> Result:
    """What `read` makes of one save of the folder.

    It is called again where a save came in between. What it leaves open stays that of the save that it was opened of.
    Of a `SavedFolder` it is part of what somebody reads, who sees to that.

    Raises:
      TensorFileError: a save came in between each time; and what `read` raises.
    """
    if isinstance(folder, SavedFolder):
        return read(folder)
    for attempt in range(TRIES):
        time.sleep(attempt * PAUSE)
        saved = SavedFolder(folder)
        try:
            result = read(saved)
        except Exception:
            if saved.is_current():
                raise
        else:
            if saved.is_current():
                return result
    raise TensorFileError(
        folder,
        "files that stay the same while they are opened",
        f"others at each of {TRIES} tries",
        "load it again when nothing saves into the folder",
    )
