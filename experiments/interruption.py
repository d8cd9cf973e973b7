"""SIGTERM and notices of maintenance: the run saves its state after the current step, and ends with status 0."""

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to end, and has saved its state."""


class Interruption:
    """Whether the run was asked to end; a context manager.

    With several processes, JAX's preemption service takes the signal and agrees on a step, because all of them must
    save the same one. In a single process a second SIGTERM ends the run at once.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> "Interruption":
        if not jax.distributed.is_initialized():
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, _type: type | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def asked(self, step: int) -> bool:
        """Return whether to save this step and end. Every process must ask after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
