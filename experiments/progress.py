"""What a training run says while it runs: a bar with loss, speed and time left, and the metrics log."""

import sys
import time

import jax
import numpy as np
import optax
from tqdm import tqdm

from experiments.metrics import MetricsLog


def make_bar(total: int, unit: str, **options) -> tqdm:
    """A bar on standard error; options are those of tqdm."""
    # In a file or a pipe a bar is one line after another: fewer of them.
    interval = 0.5 if sys.stderr.isatty() else 20
    return tqdm(total=total, unit=unit, mininterval=interval, dynamic_ncols=True, **options)


class TooManySkipped(FloatingPointError):
    """Step after step has changed nothing."""


class Progress:
    """Collects the metrics of the steps and writes them out now and then; a context manager.

    Metrics stay on the devices until `flush`: asking for a number makes the host wait for the step it belongs to.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        schedule: optax.Schedule,
        *,
        start: int,
        steps: int,
        work: tuple[int, str],
        max_skipped: int,
    ):
        """Starts the bar at step `start`.

        Args:
          log: where the rows go; None in all processes but the first, and these draw no bar either.
          schedule: the learning rate, for the log.
          work: what a step does, e.g. (4096, "tokens").
          max_skipped: so many steps on end may be skipped.
        """
        self._log, self._schedule, (self._amount, self._unit) = log, schedule, work
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._max_skipped, self._skipped, self._on_end = max_skipped, 0, 0
        self._since = time.perf_counter()
        self._bar = make_bar(steps, "step", initial=start, disable=log is None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind, error, _):
        self._bar.close()
        if self._log is not None and not isinstance(error, OSError):  # a full disk takes no more rows
            self._log.flush()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes the metrics of a step."""
        self._pending.append((step, metrics))

    def flush(self) -> None:
        """Writes the rows of the steps noted so far, and moves the bar.

        Raises:
          TooManySkipped: more steps on end were skipped than may be.
        """
        if not self._pending:
            return
        steps, metrics = zip(*jax.device_get(self._pending), strict=True)
        now = time.perf_counter()
        speed = len(steps) * self._amount / (now - self._since)
        self._since, self._pending = now, []
        if self._log is not None:
            rates = np.broadcast_to(self._schedule(np.asarray(steps) - 1), len(steps))  # a constant one gives a number
            for step, row, rate in zip(steps, metrics, rates, strict=True):
                self._log.write({"step": step, **row, "learning_rate": rate, f"{self._unit}_per_second": speed})
        skipped = f", {self._skipped} steps skipped" if self._skipped else ""
        loss = metrics[-1]["loss"]
        self._bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} {self._unit}/s{skipped}", refresh=False)
        self._bar.update(len(steps))
        for step, row in zip(steps, metrics, strict=True):
            self._count(step, row)

    def _count(self, step: int, row: dict[str, float]) -> None:
        self._on_end = self._on_end + 1 if row["skipped"] else 0
        self._skipped += bool(row["skipped"])
        if self._on_end > self._max_skipped:
            why = f"its loss is {row['loss']:.4g} and its gradient's norm {row['grad_norm']:.4g}"
            if row["loss"] == row["grad_norm"] == 0:
                why = "it has no labels"
            raise TooManySkipped(f"step {step} is number {self._on_end} on end that changed nothing: {why}")

    def add_validation(self, step: int, values: dict[str, float]) -> None:
        """Writes the row of an evaluation; its time does not count as training time."""
        if self._log is not None:
            self._log.write({"step": step, **values})
            listed = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items())
            self._bar.write(f"step {step}: {listed}")
        self._since = time.perf_counter()

    def sync(self) -> None:
        """Brings everything noted so far to the disk."""
        self.flush()
        if self._log is not None:
            self._log.flush()
