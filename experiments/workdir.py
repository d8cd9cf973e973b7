"""The folder of one run: it belongs to one config and one process at a time."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from ml_collections import FrozenConfigDict

from experiments.files import draft_of, write_json

# What may change between two starts of the same run, because it does not change the run.
FREE = ("sample", "log_every", "max_skipped", "skip_damaged")
CONFIG, LOCK = "config.json", ".lock"
# Stands while an earlier run is being deleted, in place of its config: whoever finds it, deletes what is left.
EMPTYING = ".emptying"


@contextmanager
def open_workdir(folder: Path, config: FrozenConfigDict, fresh: bool) -> Iterator[None]:
    """Makes the folder for this config, or checks that it is, and keeps other processes out of it.

    The lock is the system's: it is gone with the process, however that ends. Killed at any moment in here, the same
    call goes on the next time.

    Args:
      fresh: delete what an earlier run, of any config, left there.

    Raises:
      ValueError: the folder holds a run of another config or something else than a run, or another process works there.
    """
    file, emptying = folder / CONFIG, folder / EMPTYING
    if _content(folder) and not (file.exists() or emptying.exists()):
        raise ValueError(f"{folder} is not empty and holds no run; choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _claim(folder)
    try:
        if fresh and file.exists():
            file.rename(emptying)
        if emptying.exists():
            _empty(folder)
            emptying.unlink()
        if file.exists():
            _check(folder, json.loads(file.read_text()), _fixed(config))
        else:
            write_json(file, _fixed(config))
        yield
    finally:
        lock.release()


def _claim(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process works in {folder}; wait for its end, or choose another --workdir") from None
    return lock


def _content(folder: Path) -> list[Path]:
    """All but what this file writes before there is a run."""
    own = {LOCK, EMPTYING, draft_of(Path(CONFIG)).name}
    return [path for path in folder.iterdir() if path.name not in own] if folder.exists() else []


def _empty(folder: Path) -> None:
    for path in _content(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fixed(config: FrozenConfigDict) -> dict:
    return {name: value for name, value in json.loads(config.to_json_best_effort()).items() if name not in FREE}


def _check(folder: Path, found: dict, wanted: dict) -> None:
    found, wanted = _flat(found), _flat(wanted)
    changed = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
    if changed:
        listed = ", ".join(f"{name} was {found.get(name)} and is {wanted.get(name)}" for name in changed)
        raise ValueError(f"{folder} holds a run of another config: {listed}. Use another --workdir, or --fresh")


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
