"""SIGTERM: the run saves, ends with status 0, and the same command continues to the same result."""

import os
import signal
import time

import pytest
from support.experiment_runs import curve, finish, starter

from experiments.metrics import read

STEPS, EVERY = 600, 40


@pytest.fixture
def start(tmp_path):
    (tmp_path / "texts").mkdir()
    for n in range(20):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"text number {n} says this and that, {n} times. " * 40)
    flags = (f"--config.data.path={tmp_path / 'texts'}", f"--config.steps={STEPS}", f"--config.save_every={EVERY}")
    return starter("gpt2_lm", "--config=gpt2_smoke", *flags, "--config.eval_every=1000000")


def terminate_after_some_steps(processes, workdir) -> None:
    """Sends SIGTERM to all once there is a checkpoint."""
    while not (workdir / "checkpoints" / str(EVERY)).exists():
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)


def check_interrupted(outputs, workdir) -> int:
    """Checks what the first process says, and returns the step at which it ended."""
    line = next(line for line in outputs[0].splitlines() if line.startswith("interrupted after step "))
    assert "run the same command again" in line
    step = int(line.split()[3].rstrip(","))
    assert EVERY <= step < STEPS
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.is_dir()) == step
    assert read(workdir / "metrics.jsonl")[-1]["step"] == step
    assert not (workdir / "result.json").exists()
    return step


@pytest.mark.slow
def test_a_run_saves_ends_and_continues(start, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    terminate_after_some_steps([process], workdir)
    step = check_interrupted([finish(process)], workdir)
    assert f"resuming from the checkpoint of step {step}" in finish(start(workdir))
    finish(start(tmp_path / "whole"))
    assert curve(workdir) == curve(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_save_the_same_step(start, tmp_path):
    workdir = tmp_path / "run"
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    both = [
        start(workdir, "--config.distributed=True", **step, SLURM_NTASKS="2", SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in "01"
    ]
    terminate_after_some_steps(both[:1], workdir)  # the others hear of it from the service
    check_interrupted([finish(process) for process in both], workdir)
