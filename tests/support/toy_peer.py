"""A fake library for tests of the benchmark harness; its jobs take no time and record their calls."""

import os
from pathlib import Path

import numpy as np

from benchmarks.peers import Job


def note(log: str, name: str, values: list[float]) -> Job:
    """Append a line "name process" to the log in every call."""

    def run():
        with Path(log).open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        print("output of a library must not disturb the replies")
        return values

    return Job(run, facts=lambda result: {"answers": len(result)})


def allocate_once(mib: int) -> Job:
    """Allocate memory in the first call only."""
    left = [mib]

    def run():
        return np.ones(left.pop() * 2**18, np.float32)[:1].copy() if left else [1.0]

    return Job(run)


def refuse() -> Job:
    raise ValueError("the reason\nand more of it")


def crash() -> Job:
    os._exit(3)
