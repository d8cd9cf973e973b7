"""Records of measurements: one JSON line per run of a case."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.coordinator import Row
from benchmarks.lane import ROOT

PACKAGES = ("jaxmodels", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "ctranslate2")


def environment() -> dict[str, Any]:
    """Describe machine, versions and commit; the load average shows how busy the machine was."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": platform.platform(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def append(folder: Path, case: str, rows: list[Row], context: dict[str, Any]) -> Path:
    """Append a line to `folder`/`case`.jsonl, which also contains `context`; return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case}.jsonl"
    record = {**context, "case": case, "rows": [dataclasses.asdict(row) for row in rows]}
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return path


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
