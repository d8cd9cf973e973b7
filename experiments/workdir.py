"""The folder of one run: it belongs to one config, and is never half of one and half of another."""

import json
import os
import shutil
from pathlib import Path

from ml_collections import FrozenConfigDict

# What may change between two starts of the same run, because it does not change the run.
FREE = ("sample", "log_every")
CONFIG = "config.json"


def open_workdir(folder: Path, config: FrozenConfigDict, fresh: bool) -> None:
    """Makes the folder for this config, or checks that it is.

    Args:
      fresh: delete what an earlier run, of any config, left there.

    Raises:
      ValueError: the folder holds a run of another config, or something else than a run.
    """
    wanted = {name: value for name, value in json.loads(config.to_json_best_effort()).items() if name not in FREE}
    file = folder / CONFIG
    if folder.exists() and any(folder.iterdir()) and not file.exists():
        raise ValueError(f"{folder} is not empty and holds no run; choose another --workdir")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if file.exists():
        found, asked = _flat(json.loads(file.read_text())), _flat(wanted)
        changed = [name for name in sorted(found | asked) if found.get(name) != asked.get(name)]
        if changed:
            listed = ", ".join(f"{name} was {found.get(name)} and is {asked.get(name)}" for name in changed)
            raise ValueError(f"{folder} holds a run of another config: {listed}. Use another --workdir, or --fresh")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, wanted)


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
