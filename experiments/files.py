"""Atomic writes: a file or folder appears completely or not at all, even if the run is killed or the disk is full."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def temporary_path(file: Path) -> Path:
    """Return the path to which `atomic_file` writes before it renames the file."""
    return file.with_name(f".{file.name}")


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yield a path to write to, which is renamed to `file` at the end, or removed after an error."""
    draft = temporary_path(file)
    try:
        yield draft
        with open(draft, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(draft, file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which replaces `folder` at the end, or is removed after an error."""
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


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_file(file) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")


class AtomicAppender:
    """Appends to a file: `flush` writes everything that was added since the last one, or nothing."""

    def __init__(self, path: Path):
        self._path, self._added = path, bytearray()

    def add(self, content: bytes) -> None:
        """Buffer content for the next `flush`."""
        self._added += content

    def flush(self) -> None:
        """Write the buffered content.

        Raises:
          OSError: The disk is full; the content stays buffered for the next flush.
        """
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
