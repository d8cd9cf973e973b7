"""The coordinator's side of one participant: starting its worker and having it make calls."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# OpenMP threads of the peers go on spinning after a call, up to 200 ms, on the cores that the next peer needs.
PAUSE_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Participant:
    """Who takes part in a case, and with what.

    Attributes:
      label: its row in the table.
      peer: the library behind it, what `--peers` selects by.
      module, job, arguments: what the worker calls.
      environment: further variables of its process.
    """

    label: str
    peer: str
    module: str
    job: str
    arguments: dict[str, Any]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reply:
    """One timed call; fields as in `worker`."""

    seconds: float
    peak_mib: float | None
    rise_mib: float | None
    values: list[float]
    facts: dict[str, float]


class NoReply(Exception):
    """The participant is skipped, or its process ended; the text says why."""


class Lane:
    """Calls of one participant, all in one process, or each in a fresh one."""

    def __init__(self, participant: Participant, fresh: bool = False):
        self._participant, self._fresh = participant, fresh
        self._worker: _Worker | None = None

    def call(self) -> Reply:
        """One timed call; the set-up before the first is not timed.

        Raises:
          NoReply: the library is not installed, or the job failed.
        """
        if self._worker is None:
            self._worker = _Worker(self._participant)
        time.sleep(PAUSE_SECONDS)
        reply = self._worker.call()
        if self._fresh:
            self.close()
        return reply

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _Worker:
    """The process of `benchmarks.worker`. What it writes to stderr is kept only to say why it died."""

    def __init__(self, participant: Participant):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by `close`
        command = [sys.executable, "-m", "benchmarks.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, text=True, env=_environment(participant), **pipes)
        request = {"module": participant.module, "job": participant.job, "arguments": participant.arguments}
        try:
            self._ask(json.dumps(request))
        except BaseException:
            self.close()
            raise

    def call(self) -> Reply:
        return Reply(**self._ask("run"))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._process:  # closes the pipes, which ends the worker, and waits
            pass
        self._errors.close()

    def _ask(self, line: str) -> dict:
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise NoReply(f"failed: {self._last_words()}")
        message = json.loads(answer)
        if "problem" in message:
            raise NoReply(message["problem"])
        return message

    def _last_words(self) -> str:
        """Of a process that ended without an answer: killed for memory, or crashed in native code."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"the process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def _environment(participant: Participant) -> dict[str, str]:
    """That of this process, with every library on all cores of the CPU, offline and quiet."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    # A cache that the user has set up would hide what compiling costs.
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return {**inherited, **fixed, **participant.environment}
