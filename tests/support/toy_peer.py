"""A peer for tests of the machinery around the real ones: its jobs take no time and say who they are."""

import os
from pathlib import Path

import numpy as np

from benchmarks.peers import Job


def note(diary: str, name: str, values: list[float]) -> Job:
    """Every call adds a line "name process" to the diary."""

    def run():
        with Path(diary).open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        print("what a library prints does not disturb the answers")
        return values

    return Job(run, facts=lambda result: {"answers": len(result)})


def allocate_once(mib: int) -> Job:
    """The first call touches that much memory for a moment, the others nothing."""
    left = [mib]

    def run():
        return np.ones(left.pop() * 2**18, np.float32)[:1].copy() if left else [1.0]

    return Job(run)


def refuse() -> Job:
    raise ValueError("the reason\nand more of it")


def crash() -> Job:
    os._exit(3)
