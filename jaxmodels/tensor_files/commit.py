"""Replacing several files of a folder as one step, whatever moment the process dies at.

A save is staged in a hidden folder inside the target. Renaming that folder to its final name is the one atomic step: a
process killed before it leaves the old files, one killed after it leaves a complete set that the next load or save
moves into place.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_READY = ".saved"
_ORDER = "order.json"


@contextlib.contextmanager
def staged(folder: Path, stale: tuple[str, ...]) -> Iterator[Path]:
    """A hidden folder to write into; its files replace those of `folder` on leaving, all or none.

    Args:
      stale: patterns of files that are removed from `folder` unless this save wrote them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_save(folder)
    for remains in folder.glob(".saving-*"):
        shutil.rmtree(remains, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield staging
        files = sorted(path.name for path in staging.iterdir())
        (staging / _ORDER).write_text(json.dumps({"files": files, "stale": stale}))
        for path in (*staging.iterdir(), staging):
            _sync(path)
        staging.rename(folder / _READY)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finish_save(folder)


def finish_save(folder: Path) -> None:
    """Moves a complete staged save into place, if one is there. Can be interrupted and repeated."""
    ready = folder / _READY
    try:
        order = json.loads((ready / _ORDER).read_text())
    except FileNotFoundError:
        return
    for name in order["files"]:
        # Gone: moved by an earlier try, or by another process that loads the same folder now.
        with contextlib.suppress(FileNotFoundError):
            os.replace(ready / name, folder / name)
    for pattern in order["stale"]:
        for path in folder.glob(pattern):
            if path.name not in order["files"]:
                path.unlink(missing_ok=True)
    _sync(folder)
    shutil.rmtree(ready, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
