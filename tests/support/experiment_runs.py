"""Experiments as processes of their own: started, finished, refused, killed at a moment, and two that are one run."""

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
    """start(workdir, *more, devices=1, **environment) -> a run of experiments.`module` with its output in a pipe."""
    quick = environment.quick(metadata.version("jaxlib"))

    def start(workdir: Path, *more: str, devices: int = 1, **changed: str) -> subprocess.Popen:
        changed = {"XLA_FLAGS": f"{environment.devices(devices)} {quick}", **changed}
        if devices > 1:
            # XLA's threads: of one a core, those that meet in an all-reduce may wait for one that queued programs keep.
            changed["NPROC"] = "16"
        command = [sys.executable, "-m", f"experiments.{module}", *flags, f"--workdir={workdir}", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | changed, text=True, **pipes)

    return start


def finish(process: subprocess.Popen, timeout: float = 400) -> str:
    """The output of a run that has to succeed within so many seconds."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def refused(process: subprocess.Popen) -> str:
    """The output of a run that has to fail."""
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    return output


def in_two_processes(start: Callable[..., subprocess.Popen], workdir: Path, *more: str) -> list[str]:
    """The outputs of two processes that find each other as on a cluster and are one run."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    flags = (*more, "--config.distributed=True")
    both = [start(workdir, *flags, **step, SLURM_NTASKS="2", SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]
    return [finish(process) for process in both]


def kill_when(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Kills a run at the moment the condition holds; False if it was over before."""
    with process:  # which closes its pipe and waits for its end
        while process.poll() is None and not condition():
            time.sleep(0.0005)
        running = process.poll() is None
        process.kill()
    return running


def logged(file: Path) -> int:
    """Lines of a log, which may not be there yet."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def keys(config: ConfigDict, whole: Collection[str] = (), prefix: str = "") -> set[str]:
    """The names of a config's settings, with dots; those in `whole` are not looked into."""
    found = set()
    for name, value in config.items():
        found.add(prefix + name)
        if isinstance(value, ConfigDict) and name not in whole:
            found |= keys(value, whole, f"{prefix}{name}.")
    return found


def curve(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics without what depends on the clock."""
    rows = read(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.endswith("_per_second")} for row in rows]
