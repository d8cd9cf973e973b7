"""Run as a program: saves over a checkpoint, is killed at every moment, and checks what is left (test_killed_save.py).

Each attempt is a fork of this process, so that thousands of imports are saved. A fork is killed by SIGKILL either right
before its n-th operation on the file system (Python's audit events), for n = 1, 2, ... until it survives, or after a
random time. Prints one line of JSON.
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

import jax
import numpy as np
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

warnings.filterwarnings("ignore", message="os.fork")

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "tempfile.mkdtemp")

# What lies in the folder, and what is saved over it: (config, keywords of save).
SCENARIOS = {
    "whole": (({}, {}), ({}, {})),
    "same-number-of-shards": (({}, {"max_shard_size": "70KB"}), ({}, {"max_shard_size": "70KB"})),
    "other-vocabulary": (({}, {}), ({"vocab_size": 50}, {})),
    "shards-over-whole": (({}, {}), ({"max_length": 9}, {"max_shard_size": "70KB"})),
    "whole-over-shards": (({"max_length": 9}, {"max_shard_size": "70KB"}), ({}, {})),
}


def on_host(seed, **config):
    model, params = tiny(seed=seed, **config)
    return model, jax.tree.map(np.asarray, params)


def is_same(loaded, expected) -> bool:
    (model, params), (other, others) = loaded, expected
    got, wanted = flatten(params), flatten(others)
    same_config = model.config.replace(architectures=None, torch_dtype=None) == other.config
    return same_config and got.keys() == wanted.keys() and all(np.array_equal(got[p], wanted[p]) for p in wanted)


def fork_save(folder, model, params, options, moment: int | None) -> int:
    """Starts a save that kills itself before its n-th operation; returns the process id."""
    child = os.fork()
    if child == 0:
        left = [moment]

        def hook(event, args):
            if event in EVENTS and str(folder) in str(args[0]) and left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        jm.save(folder, model, params, **options)
        os._exit(0)
    return child


def attempt(folder, old, new, moment=None, seconds=None) -> tuple[str, bool]:
    """One killed save: which checkpoint is left ("old", "new"), and whether the save survived."""
    shutil.rmtree(folder, ignore_errors=True)
    jm.save(folder, old[0], old[1], **old[2])
    child = fork_save(folder, *new, moment)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loaded = jm.load(folder)
    kinds = [name for name, kept in (("old", old), ("new", new)) if is_same(loaded, kept[:2])]
    return "".join(kinds) or "neither", survived


def leftovers(folder, new) -> list[str]:
    """What a later save leaves beside the files of that save."""
    jm.save(folder, *new[:2], **new[2])
    held = sorted(path.name for path in folder.iterdir())
    shutil.rmtree(folder)
    jm.save(folder, *new[:2], **new[2])
    return [name for name in held if name not in {path.name for path in folder.iterdir()}]


def main(folder: Path, scenario: str, random_kills: int) -> None:
    sides = []
    for seed, (config, options) in enumerate(SCENARIOS[scenario]):
        sides.append((*on_host(seed, **config), options))
    results, moment, survived = [], 0, False
    while not survived:
        moment += 1
        kind, survived = attempt(folder, *sides, moment=moment)
        results.append(kind)
    attempt(folder, *sides, moment=max(1, len(results) // 2))
    report = {"by_moment": results, "leftovers": leftovers(folder, sides[1])}
    start = time.perf_counter()
    jm.save(folder, *sides[0][:2], **sides[0][2])
    usual, rng = time.perf_counter() - start, random.Random(0)
    report["at_random"] = [attempt(folder, *sides, seconds=rng.uniform(0, 2 * usual))[0] for _ in range(random_kills)]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
