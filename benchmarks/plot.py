"""Plot seconds against a size."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.case import Case
from benchmarks.coordinator import Row


def plot(case: Case, rows: Sequence[Row], path: Path) -> None:
    """Plot medians, minima and maxima, and the line through the origin and the last median."""
    rows = [row for row in rows if row.problem is None]
    if not rows:
        return
    sizes = [float(row.label) for row in rows]
    medians = [statistics.median(row.seconds) for row in rows]
    errors = [[m - min(r.seconds), max(r.seconds) - m] for m, r in zip(medians, rows, strict=True)]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.errorbar(sizes, medians, yerr=list(zip(*errors, strict=True)), fmt="o", capsize=3, label="median, min, max")
    axes.plot([0, sizes[-1]], [0, medians[-1]], color="0.6", linewidth=1, zorder=0, label="proportional to the last")
    axes.set(title=case.title, xlabel=case.curve or "", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
