"""The coordinator's interface to a participant: start its worker process and make calls."""

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
# OpenMP threads of some libraries keep spinning after a call, for up to 200 ms, on the cores that the next call needs.
PAUSE_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Participant:
    """A participant of a case.

    Attributes:
      label: Its label in the table.
      peer: Its library, which `--peers` selects.
      module: Module that defines the job.
      job: Name of the job class.
      arguments: Arguments of the job.
      environment: Additional environment variables of its process.
    """

    label: str
    peer: str
    module: str
    job: str
    arguments: dict[str, Any]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reply:
    """The result of a timed call; for the fields see `worker`."""

    seconds: float
    peak_mib: float | None
    rise_mib: float | None
    values: list[float]
    facts: dict[str, float]


class NoReply(Exception):
    """The participant was skipped, or its process ended; the message gives the reason."""


class Lane:
    """Makes the calls of a participant, all in one process, or each in a fresh one."""

    def __init__(self, participant: Participant, fresh: bool = False):
        self._participant, self._fresh = participant, fresh
        self._worker: _Worker | None = None

    def call(self) -> Reply:
        """Make a timed call; the setup before the first one is not timed.

        Raises:
          NoReply: The library is not installed, or the job failed.
        """
        if self._worker is None:
            self._worker = _Worker(self._participant)
        time.sleep(PAUSE_SECONDS)
        reply = self._worker.call()
        if self._fresh:
            self.close()
        return reply

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _Worker:
    """A process of `benchmarks.worker`. Its stderr is stored to report why it died."""

    def __init__(self, participant: Participant):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by `close`
        command = [sys.executable, "-m", "benchmarks.worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, text=True, env=_environment(participant), stdin=pipe, stdout=pipe, stderr=self._errors
        )
        request = {"module": participant.module, "job": participant.job, "arguments": participant.arguments}
        try:
            self._send(json.dumps(request))
        except BaseException:
            self.close()
            raise

    def call(self) -> Reply:
        return Reply(**self._send("run"))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._process:  # closes the pipes, which ends the worker, and waits
            pass
        self._errors.close()

    def _send(self, line: str) -> dict:
        """Send a line and return the answer."""
        assert self._process.stdin and self._process.stdout
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise NoReply(f"failed: {self._last_error()}")
        message = json.loads(answer)
        if "problem" in message:
            raise NoReply(message["problem"])
        return message

    def _last_error(self) -> str:
        """Describe how a process ended without an answer: killed by the OOM killer, or crashed in native code."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"the process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def _environment(participant: Participant) -> dict[str, str]:
    """Return the environment of this process, with all libraries on all CPU cores, offline and quiet."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    # A compilation cache of the user would hide compile times.
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return {**inherited, **fixed, **participant.environment}
