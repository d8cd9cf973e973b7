"""The output folder of a run: it belongs to one config, and to one process at a time."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ml_collections import FrozenConfigDict

from .files import temporary_path, write_json

# Config keys that may differ when a run is resumed, because they do not affect its results; so it continues on another
# mesh or number of hosts.
MUTABLE_KEYS = ("sample", "log_every", "save_every", "max_skipped", "skip_damaged", "remat", "sharding", "distributed")
CONFIG, LOCK = "config.json", ".lock"
# Replaces the config file while an earlier run is being deleted: a process that finds it deletes the rest.
EMPTYING = ".emptying"


class UnusableFolder(ValueError):
    """The output folder is in use, or belongs to something else."""


@contextmanager
def open_workdir(folder: Path, config: FrozenConfigDict, fresh: bool) -> Iterator[None]:
    """Create the folder for this config, or check that it belongs to it, and lock it against other processes.

    The operating system releases the lock when the process ends. If it is killed at any point in here, the next call
    continues.

    Args:
      folder: The output folder.
      config: The config of the run.
      fresh: Delete the output of an earlier run, of any config.

    Raises:
      UnusableFolder: The folder contains a run with a different config or other files, or another process is using it.
    """
    file, emptying = folder / CONFIG, folder / EMPTYING
    if _content(folder) and not (file.exists() or emptying.exists()):
        raise UnusableFolder(f"{folder} is not empty and contains no run; choose another --workdir")
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
        raise UnusableFolder(
            f"another process is using {folder}; wait until it ends, or choose another --workdir"
        ) from None
    return lock


def _content(folder: Path) -> list[Path]:
    """List the folder without the files that this module writes before there is a run."""
    ignored = {LOCK, EMPTYING, temporary_path(Path(CONFIG)).name}
    return [path for path in folder.iterdir() if path.name not in ignored] if folder.exists() else []


def _empty(folder: Path) -> None:
    for path in _content(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fixed(config: FrozenConfigDict) -> dict:
    return {name: value for name, value in json.loads(config.to_json_best_effort()).items() if name not in MUTABLE_KEYS}


def _check(folder: Path, found: dict, expected: dict) -> None:
    found, expected = _flat(found), _flat(expected)
    changed = [name for name in sorted(found | expected) if found.get(name) != expected.get(name)]
    if changed:
        listed = ", ".join(f"{name} was {found.get(name)} and is {expected.get(name)}" for name in changed)
        raise UnusableFolder(
            f"{folder} contains a run with another config: {listed}. Use another --workdir, or --fresh"
        )


def _flat(tree: dict, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
