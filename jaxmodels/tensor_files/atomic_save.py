"""Atomic replacement of several files of a folder, and consistent reading of such folders.

A save writes its files into a hidden staging folder inside the target folder. It is committed by renaming a manifest
into the staging folder: a process that is killed before leaves the old files, one that is killed after leaves the new
ones, although some have yet to be moved to the target folder. The save itself moves them, or else the next save,
because readers write nothing. `FolderSnapshot` finds the files wherever they are.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from .file_io import parse_json_object
from .validation import FormatError, TensorFileError, describe

# Files that belong together. A save names the sets that it writes, and replaces all their files, so that those it does
# not write are removed. Which files a save can write and remove is thus determined here, never by a file in the folder.
FILE_SETS = {
    "config": ("config.json", "generation_config.json"),
    "generation config": ("generation_config.json",),
    "weights": ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    # The same weights in the formats of other programs, which a conversion replaces.
    "former weights": (
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
        *("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
        *("tf_model.h5", "tf_model.h5.index.json", "tf_model-*-of-*.h5"),
    ),
    "tokenizer": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "vocab.json", "encoder.json", "merges.txt", "vocab.bpe", "vocab.txt"),
        *("spiece.model", "tokenizer.model"),
    ),
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
    "index": ("dense_index.json", "embeddings-*.safetensors"),
    "rows": ("embeddings.safetensors",),
    "passages": ("passages.arrow",),
}

STAGING, MANIFEST = ".saved", "order.json"
MAX_MANIFEST = 2**22  # bytes, enough for 50,000 shards
REMEDY = f"remove {STAGING}, or save into the folder again"
READ_ATTEMPTS, READ_PAUSE = 20, 0.02  # seconds, times the number of the attempt

# Errors of file systems that do not support locks.
_NO_LOCKS = {errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

Result = TypeVar("Result")


def is_plain_filename(name: object) -> bool:
    """Whether this is the name of a file, without a path to another folder."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255:
        return False
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def in_file_sets(name: str, sets: Iterable[str]) -> bool:
    """Whether the file name belongs to one of the sets."""
    return any(fnmatchcase(name, pattern) for each in sets for pattern in FILE_SETS[each])


class SaveManifest(NamedTuple):
    """Record of a committed save, which exists until all its files are in place.

    Attributes:
      sets: keys of `FILE_SETS` whose files are replaced.
      files: names of the new files.
    """

    sets: tuple[str, ...]
    files: frozenset[str]

    def removes(self, name: str) -> bool:
        """Whether the save removes this file, which may still exist."""
        return name not in self.files and in_file_sets(name, self.sets)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"sets": self.sets, "files": sorted(self.files)}) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> SaveManifest | None:
    """Reads the manifest of a save whose files are not all in place; None if there is none.

    The folder may come from elsewhere, so the manifest is accepted only if `atomic_save` could have written it.

    Raises:
      TensorFileError: an invalid manifest.
    """
    path = folder / STAGING / MANIFEST
    try:
        if not stat.S_ISDIR((folder / STAGING).lstat().st_mode):
            raise FormatError("a folder", "something else", REMEDY).at(folder / STAGING)
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST:
            raise FormatError(
                f"a regular file of at most {MAX_MANIFEST} bytes",
                f"one of {status.st_size} bytes or another type",
                REMEDY,
            ).at(path)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _parse_manifest(parse_json_object(data, "the manifest of a save"))
    except FormatError as error:
        raise FormatError(error.expected, error.found, REMEDY).at(path) from None


def _parse_manifest(values: dict) -> SaveManifest:
    if values.keys() != {"sets", "files"}:
        raise FormatError("`sets` and `files`", ", ".join(map(describe, sorted(values)[:5])) or "neither")
    sets, files = values["sets"], values["files"]
    if not isinstance(sets, list) or not all(isinstance(each, str) and each in FILE_SETS for each in sets):
        raise FormatError(f"sets of {', '.join(FILE_SETS)}", describe(sets))
    if not isinstance(files, list):
        raise FormatError("a list of files", describe(files))
    for name in files:
        if not is_plain_filename(name) or not in_file_sets(name, sets):
            raise FormatError(f"file names of {', '.join(sets) or 'no set'}", describe(name))
    return SaveManifest(tuple(sets), frozenset(files))


@contextlib.contextmanager
def atomic_save(folder: Path, *sets: str) -> Iterator[Path]:
    """Context manager that replaces the files of some sets atomically.

    Yields a staging folder to write to. On exit its files replace all files of the sets in `folder`; after an exception
    nothing is changed. Saves of several processes into the same folder wait for each other, and the last one wins.

    Args:
      folder: is created if needed.
      sets: keys of `FILE_SETS`.

    Raises:
      ValueError: a file was written that belongs to none of the sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        _recover(folder)
        staging = folder / STAGING
        staging.mkdir()
        try:
            yield staging
            files = frozenset(os.listdir(staging))
            if unexpected := sorted(name for name in files if not in_file_sets(name, sets)):
                raise ValueError(f"{unexpected[0]} is not a file of {', '.join(sets)}")
            draft, manifest = staging / f"{MANIFEST}.draft", SaveManifest(sets, files)
            manifest.write(draft)
            for path in (*staging.iterdir(), staging):
                _fsync(path)
            os.replace(draft, staging / MANIFEST)
        except BaseException:
            if not (staging / MANIFEST).exists():
                shutil.rmtree(staging, ignore_errors=True)
            raise
        _fsync(staging)
        _move_into_place(folder, manifest)


def _recover(folder: Path) -> None:
    """Completes a committed save that was killed, and removes an uncommitted one."""
    staging = folder / STAGING
    try:
        manifest = read_manifest(folder)
    except TensorFileError:
        manifest = None
    if manifest is not None:
        return _move_into_place(folder, manifest)
    if staging.is_dir() and not staging.is_symlink():
        shutil.rmtree(staging)
    else:
        staging.unlink(missing_ok=True)


def _move_into_place(folder: Path, manifest: SaveManifest) -> None:
    """Moves the files of a committed save. Can be interrupted and repeated. Replaces links, not their targets."""
    staging = folder / STAGING
    for name in sorted(manifest.files):
        with contextlib.suppress(FileNotFoundError):  # already moved
            os.replace(staging / name, folder / name)
    for name in os.listdir(folder):
        if manifest.removes(name):
            (folder / name).unlink(missing_ok=True)
    _fsync(folder)
    (staging / MANIFEST).unlink()
    shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Excludes other saves into the folder. The system releases the lock when the process ends, in whatever way."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderSnapshot:
    """The files of a folder after the last committed save: `snapshot / "config.json"` is the path of a file.

    Reading neither writes nor locks anything, so it works in folders that are read-only.

    Raises:
      TensorFileError: the folder has an invalid manifest.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self._manifest = read_manifest(self.path)
        self._requested: dict[str, tuple[Path, tuple[int, ...] | None]] = {}

    def __truediv__(self, name: str) -> Path:
        """The path of a file, at which nothing exists if the folder has no such file."""
        located = self._locate(name)
        self._requested.setdefault(name, located)
        return located[0]

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """The sorted names of all files and folders."""
        manifest = self._manifest
        existing = {
            name for name in os.listdir(self.path) if name != STAGING and not (manifest and manifest.removes(name))
        }
        return sorted(existing | (manifest.files if manifest else frozenset()))

    def is_current(self) -> bool:
        """Whether every requested file is unchanged and in the same place, and those missing are still missing.

        A file that was moved into place in the meantime may have appeared to be missing.
        """
        now = FolderSnapshot(self.path)
        return all(now._locate(name) == located for name, located in self._requested.items())

    def _locate(self, name: str) -> tuple[Path, tuple[int, ...] | None]:
        """The path of a file, and its identity; None if it does not exist."""
        candidates = [self.path / name]
        if self._manifest is not None and name in self._manifest.files:
            candidates.insert(0, self.path / STAGING / name)
        elif self._manifest is not None and self._manifest.removes(name):
            candidates = [self.path / STAGING / name]
        for path in candidates:
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not a valid file name
                continue
            return path, (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        return candidates[-1], None


def read_snapshot(folder: str | os.PathLike | FolderSnapshot, read: Callable[[FolderSnapshot], Result]) -> Result:
    """Reads a folder consistently, although other processes may save into it at the same time.

    Calls `read` again if a save was committed in the meantime. Files that `read` leaves open stay those of the save.

    Args:
      folder: the folder; with a `FolderSnapshot` this call is part of a larger read, which checks for consistency.
      read: reads files of a snapshot.

    Returns:
      The result of `read`.

    Raises:
      TensorFileError: a save was committed during every attempt; and what `read` raises.
    """
    if isinstance(folder, FolderSnapshot):
        return read(folder)
    for attempt in range(READ_ATTEMPTS):
        time.sleep(attempt * READ_PAUSE)
        snapshot = FolderSnapshot(folder)
        try:
            result = read(snapshot)
        except Exception:
            if snapshot.is_current():
                raise
        else:
            if snapshot.is_current():
                return result
    raise TensorFileError(
        folder,
        "files that do not change while they are opened",
        f"a change during each of {READ_ATTEMPTS} attempts",
        "load it again while no process saves into the folder",
    )
