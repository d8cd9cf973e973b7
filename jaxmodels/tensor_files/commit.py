"""Replacing several files of a folder as one step, whatever moment the process dies at.

A save is staged in a hidden folder inside the target. Its order, one file that appears in there as a whole, is what
makes it happen: a process killed before leaves the old files, one killed after leaves the new ones, and readers see
either (see `saved`), though some files have yet to be moved into place. That is left to the save itself or to the next
one, for readers write nothing.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import TensorFileError
from .file_sets import belongs
from .order import ORDER, READY, Order, read_order

# File systems on which nothing can be locked.
_NO_LOCKS = {errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def staged(folder: Path, *sets: str) -> Iterator[Path]:
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
            if foreign := sorted(name for name in files if not belongs(name, sets)):
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
