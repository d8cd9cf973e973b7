"""Files and folders that are there whole or not at all, also where the run is killed or the disk is full."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def draft_of(file: Path) -> Path:
    """Where a file is written before it gets its name."""
    return file.with_name(f".{file.name}")


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Gives the path to write to; what is there at the end gets the name `file`, what an error leaves is removed."""
    draft = draft_of(file)
    try:
        yield draft
        with open(draft, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(draft, file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder, which is made anew; an earlier one of that name is replaced."""
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write_json(file: Path, content: dict) -> None:
    with whole_file(file) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")


class Appended:
    """A file that grows by what was added whenever `flush` is called, by all of it or by nothing."""

    def __init__(self, path: Path):
        self._path, self._added = path, bytearray()

    def add(self, content: bytes) -> None:
        self._added += content

    def flush(self) -> None:
        """Raises OSError where the disk takes no more; what was added is kept for the next flush."""
        with open(self._path, "ab", buffering=0) as file:
            before, rest = file.tell(), memoryview(bytes(self._added))
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self._added.clear()
