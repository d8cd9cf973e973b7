"""Progress of a training run: a bar with loss, throughput and remaining time, and the metrics log."""

import sys
import time
from types import TracebackType
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from .metrics import MetricsLog


def progress_bar(total: int, unit: str, **options: Any) -> tqdm:
    """Create a progress bar on standard error; further options are those of tqdm."""
    # In a file or pipe, each update is a new line: update less often.
    interval = 0.5 if sys.stderr.isatty() else 20
    return tqdm(total=total, unit=unit, mininterval=interval, dynamic_ncols=True, **options)


class TooManySkipped(FloatingPointError):
    """Too many consecutive steps were skipped."""


class TrainingProgress:
    """Collects the metrics of the steps and reports them on `flush`; a context manager.

    Metrics stay on the devices until `flush`: reading a number makes the host wait for the step that computes it.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        schedule: optax.Schedule,
        *,
        start: int,
        steps: int,
        items_per_step: tuple[int, str],
        max_skipped: int,
    ):
        """Start the bar at step `start`.

        Args:
          log: The metrics log; None in all processes but the first, which then show no bar either.
          schedule: The learning rate by step, for the log.
          start: Number of steps that are already done.
          steps: Number of all steps.
          items_per_step: What a step processes, such as (4096, "tokens").
          max_skipped: The number of consecutive steps that may be skipped.
        """
        self._log, self._schedule, (self._amount, self._unit) = log, schedule, items_per_step
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._max_skipped, self._skipped, self._consecutive = max_skipped, 0, 0
        self._since = time.perf_counter()
        self._bar = progress_bar(steps, "step", initial=start, disable=log is None)

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, _type: type | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        self._bar.close()
        if self._log is not None and not isinstance(error, OSError):  # the disk may be full
            self._log.flush()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Add the metrics of a step."""
        self._pending.append((step, metrics))

    def flush(self) -> None:
        """Write the metrics added so far to the log, and update the bar.

        Raises:
          TooManySkipped: More than max_skipped consecutive steps were skipped.
        """
        if not self._pending:
            return
        steps, metrics = zip(*jax.device_get(self._pending), strict=True)
        now = time.perf_counter()
        speed = len(steps) * self._amount / (now - self._since)
        self._since, self._pending = now, []
        if self._log is not None:
            rates = np.broadcast_to(
                self._schedule(np.asarray(steps) - 1), len(steps)
            )  # a constant schedule returns a number
            for step, row, rate in zip(steps, metrics, rates, strict=True):
                self._log.write({"step": step, **row, "learning_rate": rate, f"{self._unit}_per_second": speed})
        skipped = f", {self._skipped} steps skipped" if self._skipped else ""
        loss = metrics[-1]["loss"]
        self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} {self._unit}/s{skipped}", refresh=False)
        self._bar.update(len(steps))
        for step, row in zip(steps, metrics, strict=True):
            self._count(step, row)

    def _count(self, step: int, row: dict[str, float]) -> None:
        self._consecutive = self._consecutive + 1 if row["skipped"] else 0
        self._skipped += bool(row["skipped"])
        if self._consecutive > self._max_skipped:
            why = f"its loss is {row['loss']:.4g} and its gradient norm {row['grad_norm']:.4g}"
            if row["loss"] == row["grad_norm"] == 0:
                why = "it has no labels"
            raise TooManySkipped(f"step {step} was skipped, the last of {self._consecutive} consecutive ones: {why}")

    def add_validation(self, step: int, values: dict[str, float]) -> None:
        """Write the results of an evaluation to the log; its time does not count as training time."""
        if self._log is not None:
            self._log.write({"step": step, **values})
            listed = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items())
            self._bar.write(f"step {step}: {listed}")
        self._since = time.perf_counter()

    def sync(self) -> None:
        """Write everything added so far to the disk."""
        self.flush()
        if self._log is not None:
            self._log.flush()
