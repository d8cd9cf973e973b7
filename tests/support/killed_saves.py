"""Program that kills saves over an existing checkpoint, and checks which checkpoint is left (test_killed_save.py).

Each save runs in a fork of this process, to avoid repeated imports. The fork is killed by SIGKILL either before its
n-th operation on the file system (a Python audit event), for n = 1, 2, ... until it finishes, or after a random time.
Prints one line of JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

warnings.filterwarnings("ignore", message="os.fork")

Checkpoint = tuple[Any, dict, dict[str, Any]]  # model, parameters, options of save

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "tempfile.mkdtemp")

# The existing and the new checkpoint: (config, options of save).
SCENARIOS: dict[str, tuple[tuple[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    "whole": (({}, {}), ({}, {})),
    "same-number-of-shards": (({}, {"max_shard_size": "70KB"}), ({}, {"max_shard_size": "70KB"})),
    "other-vocabulary": (({}, {}), ({"vocab_size": 50}, {})),
    "shards-over-whole": (({}, {}), ({"max_length": 9}, {"max_shard_size": "70KB"})),
    "whole-over-shards": (({"max_length": 9}, {"max_shard_size": "70KB"}), ({}, {})),
}


def on_host(seed: int, **config: Any) -> tuple[Any, dict]:
    model, params = tiny(seed=seed, **config)
    return model, jax.tree.map(np.asarray, params)


def is_same(loaded: tuple, expected: tuple) -> bool:
    (model, params), (other, other_params) = loaded, expected
    got, expected_params = flatten(params), flatten(other_params)
    same_config = model.config.replace(architectures=None, torch_dtype=None) == other.config
    return (
        same_config
        and got.keys() == expected_params.keys()
        and all(np.array_equal(got[p], expected_params[p]) for p in expected_params)
    )


def fork_save(folder: Path, checkpoint: Checkpoint, operation: int | None) -> int:
    """Starts a save that kills itself before its n-th operation; returns the process id."""
    child = os.fork()
    if child == 0:
        left = [operation]  # operations until it is killed

        def hook(event, args):
            if event in EVENTS and str(folder) in str(args[0]) and left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        model, params, options = checkpoint
        jm.save(folder, model, params, **options)
        os._exit(0)
    return child


def attempt(
    folder: Path, old: Checkpoint, new: Checkpoint, operation: int | None = None, seconds: float | None = None
) -> tuple[str, bool]:
    """Kills one save; returns which checkpoint is left ("old" or "new"), and whether the save finished."""
    shutil.rmtree(folder, ignore_errors=True)
    jm.save(folder, old[0], old[1], **old[2])
    child = fork_save(folder, new, operation)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loaded = jm.load(folder)
    matching = [name for name, saved in (("old", old), ("new", new)) if is_same(loaded, saved[:2])]
    return "".join(matching) or "neither", survived


def leftovers(folder: Path, new: Checkpoint) -> list[str]:
    """Returns files that a further save leaves behind."""
    jm.save(folder, new[0], new[1], **new[2])
    names = sorted(path.name for path in folder.iterdir())
    shutil.rmtree(folder)
    jm.save(folder, new[0], new[1], **new[2])
    return [name for name in names if name not in {path.name for path in folder.iterdir()}]


def main(folder: Path, scenario: str, random_kills: int) -> None:
    old, new = ((*on_host(seed, **config), options) for seed, (config, options) in enumerate(SCENARIOS[scenario]))
    results, operation, survived = [], 0, False
    while not survived:
        operation += 1
        version, survived = attempt(folder, old, new, operation=operation)
        results.append(version)
    attempt(folder, old, new, operation=max(1, len(results) // 2))
    report = {"by_operation": results, "leftovers": leftovers(folder, new)}
    start = time.perf_counter()
    jm.save(folder, old[0], old[1], **old[2])
    duration, rng = time.perf_counter() - start, random.Random(0)
    report["at_random"] = [
        attempt(folder, old, new, seconds=rng.uniform(0, 2 * duration))[0] for _ in range(random_kills)
    ]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
