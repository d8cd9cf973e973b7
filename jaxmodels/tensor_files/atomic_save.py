"""Replacing several files of a folder as one step, whatever moment the process dies at.

A save is staged in a hidden folder inside the target. Its order, one file that appears in there as a whole, is what
makes it happen: a process killed before leaves the old files, one killed after leaves the new ones, and readers see
either (see `saved`), though some files have yet to be moved into place. That is left to the save itself or to the next
one, for readers write nothing.
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

from .safetensors_file import parse_json_object
from .validation import FormatError, TensorFileError, describe

FILE_SETS = {
    "config": ("config.json", "generation_config.json"),
    "generation config": ("generation_config.json",),
    "weights": ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    # Other programs' files of the same weights, which a conversion replaces by those above.
    "former weights": (
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
        *("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
        *("tf_model.h5", "tf_model.h5.index.json", "tf_model-*-of-*.h5"),
    ),
    "tokenizer": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "vocab.json", "encoder.json", "merges.txt", "vocab.bpe", "vocab.txt", "spiece.model"),
    ),
    "index": ("dense_index.json", "embeddings-*.safetensors"),
    "rows": ("embeddings.safetensors",),
    "passages": ("passages.arrow",),
}


def is_plain_filename(name: object) -> bool:
    """Whether it names a file in a folder itself, and nothing that lies elsewhere."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255:
        return False
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def in_file_sets(name: str, sets: Iterable[str]) -> bool:
    """Whether a plain name is one of a file of these sets."""
    return any(fnmatchcase(name, pattern) for each in sets for pattern in FILE_SETS[each])


READY, ORDER = ".saved", "order.json"
MAX_ORDER = 2**22  # a model of 50,000 shards
REMEDY = f"remove {READY}, or save into the folder again"


class Order(NamedTuple):
    """The `files` that were saved, and the `sets` that they replace (see `file_sets`)."""

    sets: tuple[str, ...]
    files: frozenset[str]

    def hides(self, name: str) -> bool:
        """Whether the save has removed a file, which may still be there."""
        return name not in self.files and in_file_sets(name, self.sets)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"sets": self.sets, "files": sorted(self.files)}) + "\n", encoding="utf-8")


def read_order(folder: Path) -> Order | None:
    """The order of a save whose files are not all in place; None where there is none.

    Raises TensorFileError for one that no save has written.
    """
    path = folder / READY / ORDER
    try:
        if not stat.S_ISDIR((folder / READY).lstat().st_mode):
            raise FormatError("a folder", "something else", REMEDY).at(folder / READY)
        kept = path.lstat()
        if not stat.S_ISREG(kept.st_mode) or kept.st_size > MAX_ORDER:
            raise FormatError(f"a file of at most {MAX_ORDER} bytes", f"another, of {kept.st_size}", REMEDY).at(path)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _parsed(parse_json_object(data, "the order of a save"))
    except FormatError as error:
        raise FormatError(error.expected, error.found, REMEDY).at(path) from None


def _parsed(found: dict) -> Order:
    if found.keys() != {"sets", "files"}:
        raise FormatError("`sets` and `files`", ", ".join(map(describe, sorted(found)[:5])) or "neither")
    sets, files = found["sets"], found["files"]
    if not isinstance(sets, list) or not all(isinstance(each, str) and each in FILE_SETS for each in sets):
        raise FormatError(f"sets of {', '.join(FILE_SETS)}", describe(sets))
    if not isinstance(files, list):
        raise FormatError("a list of files", describe(files))
    for name in files:
        if not is_plain_filename(name) or not in_file_sets(name, sets):
            raise FormatError(f"files of {', '.join(sets) or 'no set'}, by their plain names", describe(name))
    return Order(tuple(sets), frozenset(files))


TRIES, PAUSE = 20, 0.02  # seconds, more of them after each try

Result = TypeVar("Result")


class FolderSnapshot:
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
        now = FolderSnapshot(self.path)
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


def read_snapshot(folder: str | os.PathLike | FolderSnapshot, read: Callable[[FolderSnapshot], Result]) -> Result:
    """What `read` makes of one save of the folder.

    It is called again where a save came in between. What it leaves open stays that of the save that it was opened of.
    Of a `SavedFolder` it is part of what somebody reads, who sees to that.

    Raises:
      TensorFileError: a save came in between each time; and what `read` raises.
    """
    if isinstance(folder, FolderSnapshot):
        return read(folder)
    for attempt in range(TRIES):
        time.sleep(attempt * PAUSE)
        saved = FolderSnapshot(folder)
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


# File systems on which nothing can be locked.
_NO_LOCKS = {errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def atomic_save(folder: Path, *sets: str) -> Iterator[Path]:
    """A hidden folder to write into; on leaving, its files replace all those of some sets in `folder`, or none.

    Where another process saves into the same folder this one waits for it, and the later save is the one that stays.

    Args:
      sets: keys of `FILE_SETS`.

    Raises:
      ValueError: a file was written that is of none of the sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _settle(folder)
        staging = folder / READY
        staging.mkdir()
        try:
            yield staging
            files = frozenset(os.listdir(staging))
            if foreign := sorted(name for name in files if not in_file_sets(name, sets)):
                raise ValueError(f"{foreign[0]} is no file of {', '.join(sets)}")
            draft, order = staging / f"{ORDER}.draft", Order(sets, files)
            order.write(draft)
            for path in (*staging.iterdir(), staging):
                _sync(path)
            os.replace(draft, staging / ORDER)
        except BaseException:
            if not (staging / ORDER).exists():
                shutil.rmtree(staging, ignore_errors=True)
            raise
        _sync(staging)
        _put_in_place(folder, order)


def _settle(folder: Path) -> None:
    """Puts in place what a killed save had finished, and removes what it had not."""
    ready = folder / READY
    try:
        order = read_order(folder)
    except TensorFileError:
        order = None
    if order is not None:
        return _put_in_place(folder, order)
    if ready.is_dir() and not ready.is_symlink():
        shutil.rmtree(ready)
    else:
        ready.unlink(missing_ok=True)


def _put_in_place(folder: Path, order: Order) -> None:
    """Can be interrupted and repeated. A link in the folder is replaced, and what it leads to stays."""
    ready = folder / READY
    for name in sorted(order.files):
        with contextlib.suppress(FileNotFoundError):  # moved by an earlier try
            os.replace(ready / name, folder / name)
    for name in os.listdir(folder):
        if order.hides(name):
            (folder / name).unlink(missing_ok=True)
    _sync(folder)
    (ready / ORDER).unlink()
    shutil.rmtree(ready, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The only save into the folder. The system gives the lock back when a process ends, however it ends."""
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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
