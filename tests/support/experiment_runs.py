"""Run experiments in separate processes: to completion, until they fail, until they are killed, or in two processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path

from ml_collections import ConfigDict
from support import environment

from experiments.metrics import read

ROOT = Path(__file__).resolve().parents[2]


def starter(module: str, *flags: str) -> Callable[..., subprocess.Popen]:
    """Return start(workdir, *more, devices=1, **environment), which starts an experiment with piped output."""
    quick = environment.quick(metadata.version("jaxlib"))

    def start(workdir: Path, *more: str, devices: int = 1, **changed: str) -> subprocess.Popen:
        changed = {"XLA_FLAGS": f"{environment.devices(devices)} {quick}", **changed}
        if devices > 1:
            # With one XLA thread per core, an all-reduce may deadlock: queued programs can occupy the last thread.
            changed["NPROC"] = "16"
        command = [sys.executable, "-m", "jaxmodels", "run", module, *flags, f"--workdir={workdir}", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | changed, text=True, **pipes)

    return start


def finish(process: subprocess.Popen, timeout: float = 400) -> str:
    """Return the output of a run that must succeed within `timeout` seconds."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def refused(process: subprocess.Popen) -> str:
    """Return the output of a run that must fail."""
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    return output


def in_two_processes(start: Callable[..., subprocess.Popen], workdir: Path, *more: str) -> list[str]:
    """Run two processes that connect as on a cluster; return their outputs."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    flags = (*more, "--config.distributed=True")
    both = [start(workdir, *flags, **step, SLURM_NTASKS="2", SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]
    return [finish(process) for process in both]


def kill_when(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Kill a run as soon as the condition holds; return False if it ended before."""
    with process:  # closes the pipe and waits
        while process.poll() is None and not condition():
            time.sleep(0.0005)
        running = process.poll() is None
        process.kill()
    return running


def logged(file: Path) -> int:
    """Return the number of lines of a log, 0 if it does not exist yet."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def keys(config: ConfigDict, leaves: Collection[str] = (), prefix: str = "") -> set[str]:
    """Return the dotted names of all settings of a config; those in `leaves` are not expanded."""
    found = set()
    for name, value in config.items():
        found.add(prefix + name)
        if isinstance(value, ConfigDict) and name not in leaves:
            found |= keys(value, leaves, f"{prefix}{name}.")
    return found


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run without those that depend on time."""
    rows = read(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.endswith("_per_second")} for row in rows]
