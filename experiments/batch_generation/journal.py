"""What is finished, on disk: a kill at any moment loses at most the batch under way, and doubles nothing."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files import whole_file, write_json

SOURCES = "sources.json"
ENDS = 1 << 16  # bytes of both ends of a file that stand for it


class Journal:
    """Results in a file of JSON lines, in the order in which they were finished; a context manager.

    Attributes:
      done: ids of the lines whose results are there.
    """

    def __init__(self, file: Path):
        """Opens the file, and drops a last line that a kill has cut off.

        Raises:
          ValueError: another process writes into it, or it is damaged otherwise.
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

    def __exit__(self, *_):
        self._file.close()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes whole lines, those that are not there yet; they are on disk when this returns."""
        rows = [row for row in rows if row["id"] not in self.done]
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done.update(row["id"] for row in rows)

    def write_ordered(self, file: Path, ids: Iterable[str | int]) -> None:
        """All results in the order of those ids, as one file that is there whole or not at all."""
        found = _by_id(self._path, self._path.read_bytes())
        with whole_file(file) as draft, draft.open("wb") as out:
            out.writelines(found[name] for name in ids)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {self._path}; wait for it or stop it") from None


def _by_id(file: Path, content: bytes) -> dict[str | int, bytes]:
    """The lines, each with its end."""
    found = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            found[json.loads(line)["id"]] = line
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {number} of {file} is damaged, and not by a kill; remove that line, or use --fresh"
            ) from None
    return found


def check_unchanged(folder: Path, sources: Mapping[str, str]) -> None:
    """Compares what a job is made from, {name: fingerprint}, with what `note` wrote, if it did.

    Raises:
      ValueError: something is not what it was.
    """
    file = folder / SOURCES
    before = json.loads(file.read_text()) if file.exists() else sources
    if changed := [name for name in sources if sources[name] != before[name]]:
        raise ValueError(
            f"{' and '.join(changed)} changed since the job in {folder} was started, and its results so far would not "
            f"fit the later ones; put the old one back, or use another --workdir, or --fresh"
        )


def note(folder: Path, sources: Mapping[str, str]) -> None:
    """Writes down what the job is made from."""
    write_json(folder / SOURCES, dict(sources))


def of_file(file: Path) -> str:
    """A fingerprint of the whole content."""
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def of_folder(folder: Path) -> str:
    """A fingerprint of its files by name, size and both ends: quick, and weights that were trained on have others."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as raw:
            digest.update(raw.read(ENDS))
            raw.seek(max(0, size - ENDS))
            digest.update(raw.read())
    return digest.hexdigest()
