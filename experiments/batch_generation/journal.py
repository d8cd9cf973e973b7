"""Finished results on disk: a kill loses at most the current batch, and duplicates nothing."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_file, write_json

SOURCES = "sources.json"
HASHED_BYTES = 1 << 16  # number of bytes at both ends of a file that `hash_folder` reads


class Journal:
    """A file of results as JSON lines, in the order of completion; a context manager.

    Attributes:
      done: Ids of the finished lines.
    """

    def __init__(self, file: Path):
        """Open the file, and drop an incomplete last line, left by a kill.

        Raises:
          ValueError: Another process is writing the file, or it is damaged in another way.
        """
        self._path = file
        self._file = open(file, "ab+")  # noqa: SIM115 - closed in __exit__
        try:
            self._lock()
            self._file.seek(0)
            content = self._file.read()
            self._file.truncate(content.rfind(b"\n") + 1)
            self.done = set(_by_id(file, content[: content.rfind(b"\n") + 1]))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append the rows whose ids are new; they are on disk when this returns."""
        rows = [row for row in rows if row["id"] not in self.done]
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.update(row["id"] for row in rows)

    def write_ordered(self, file: Path, ids: Iterable[str | int]) -> None:
        """Write all results to a file, atomically and in the order of `ids`."""
        found = _by_id(self._path, self._path.read_bytes())
        with atomic_file(file) as draft, draft.open("wb") as out:
            out.writelines(found[name] for name in ids)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {self._path}; wait for it or stop it") from None


def _by_id(file: Path, content: bytes) -> dict[str | int, bytes]:
    """Return the lines by id, including their newlines."""
    found = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            found[json.loads(line)["id"]] = line
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {number} of {file} is damaged, and not by a killed job; remove that line, or use --fresh"
            ) from None
    return found


def check_unchanged(folder: Path, sources: Mapping[str, str]) -> None:
    """Compare the sources of a job with those that `record_sources` wrote, if there are any.

    Args:
      folder: Folder of the job.
      sources: name -> fingerprint.

    Raises:
      ValueError: A fingerprint changed.
    """
    file = folder / SOURCES
    before = json.loads(file.read_text()) if file.exists() else sources
    if changed := [name for name in sources if sources[name] != before[name]]:
        raise ValueError(
            f"{' and '.join(changed)} changed since the job in {folder} was started, so the existing results would not "
            f"match the new ones; restore the original, or use another --workdir, or --fresh"
        )


def record_sources(folder: Path, sources: Mapping[str, str]) -> None:
    """Write the sources of a job, name -> fingerprint."""
    write_json(folder / SOURCES, dict(sources))


def hash_file(file: Path) -> str:
    """Return a hash of the whole content."""
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """Return a hash of the names, sizes and both ends of all files: fast, and sensitive to further training."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as raw:
            digest.update(raw.read(HASHED_BYTES))
            raw.seek(max(0, size - HASHED_BYTES))
            digest.update(raw.read())
    return digest.hexdigest()
