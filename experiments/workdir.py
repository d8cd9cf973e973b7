"""The folder of one run: it belongs to one config and one process at a time."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from ml_collections import FrozenConfigDict

# What may change between two starts of the same run, because it does not change the run.
FREE = ("sample", "log_every")
CONFIG, LOCK = "config.json", ".lock"


@contextmanager
def open_workdir(folder: Path, config: FrozenConfigDict, fresh: bool) -> Iterator[None]:
    """Makes the folder for this config, or checks that it is, and keeps other processes out of it.

    The lock is the system's: it is gone with the process, however that ends.

    Args:
      fresh: delete what an earlier run, of any config, left there.

    Raises:
      ValueError: the folder holds a run of another config or something else than a run, or another process works there.
    """
    file = folder / CONFIG
    if _content(folder) and not file.exists():
        raise ValueError(f"{folder} is not empty and holds no run; choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _claim(folder)
    try:
        if fresh:
            _empty(folder)
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
    return [path for path in folder.iterdir() if path.name != LOCK] if folder.exists() else []


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


def write_json(file: Path, content: dict) -> None:
    """Writes the file whole or not at all."""
    draft = file.with_name(f".{file.name}")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(draft, file)


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
