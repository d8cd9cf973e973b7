"""Imports, which only the first call of a process measures."""

import importlib

from benchmarks.peers import Job


def packages(folder: str, names: list[str]) -> Job:
    """Import packages; `folder` is not read; no values."""
    return Job(lambda: [importlib.import_module(name) for name in names], values=lambda _: [])
