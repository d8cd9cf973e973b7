"""Curves over training as pictures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .files import atomic_file

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]  # steps, values

INK, MUTED, TRAIN, VALIDATION = "#222222", "#777777", "#9ecae1", "#08519c"


def loss_curve(
    path: Path,
    train: Curve,
    validation: Curve,
    *,
    title: str,
    unit: str,
    held_out: str = "validation, on part of the held-out text",
    baselines: dict[str, float] | None = None,
) -> None:
    """Plot training and validation loss over the steps.

    Args:
      path: The PNG file to write.
      train: (steps, losses). There is one noisy point per batch, so the running mean is drawn as well.
      validation: (steps, losses).
      title: Title of the plot.
      unit: Unit of the losses, for the axis.
      held_out: Name of the validation curve, for the legend.
      baselines: name -> loss, drawn as horizontal lines.
    """
    baselines = baselines or {}
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    steps, bits = map(np.asarray, train)
    axes.plot(steps, bits, color=TRAIN, linewidth=0.6, alpha=0.6)
    axes.plot(steps, smooth(bits), color=TRAIN, linewidth=2, label="training (running mean)")
    axes.plot(
        *validation,
        color=VALIDATION,
        linewidth=2,
        marker="o",
        markersize=4,
        label=held_out,
    )
    axes.set_xlim(0, steps.max() * 1.02)
    low = min([*validation[1], *baselines.values(), np.percentile(bits, 1)])
    high = max([*baselines.values(), np.percentile(bits, 97), validation[1][0]])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.05 * (high - low))
    axes.set_ylabel(f"{unit} (lower is better)")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.98))
    _finish(path, figure, axes, title, baselines)


def score_curve(path: Path, scores: Curve, *, title: str, unit: str, baselines: dict[str, float]) -> None:
    """Plot a score between 0 and 1 over the steps.

    Args:
      path: The PNG file to write.
      scores: (steps, scores).
      title: Title of the plot.
      unit: Name of the score, for the axis.
      baselines: name -> score, drawn as horizontal lines.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(*scores, color=VALIDATION, linewidth=2, marker="o", markersize=4)
    axes.set_xlim(0, max(scores[0]) * 1.02)
    axes.set_ylim(0, min(1.2 * max([*scores[1], *baselines.values(), 0.05]), 1))
    axes.set_ylabel(f"{unit} (higher is better)")
    _finish(path, figure, axes, title, baselines)


def _finish(path: Path, figure: Figure, axes: Axes, title: str, baselines: dict[str, float]) -> None:
    for name, value in baselines.items():
        axes.axhline(value, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate(
            f"{name} {value:.2f}", (0, value), xycoords=("axes fraction", "data"), xytext=(4, 3),
            textcoords="offset points", color=MUTED, fontsize=9,
        )  # fmt: skip
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)
    save(path, figure)


def save(path: Path, figure: Figure) -> None:
    """Write the figure to a PNG file atomically, and close it."""
    with atomic_file(path) as draft:
        figure.savefig(draft, dpi=130, format="png")
    plt.close(figure)


def smooth(values: Sequence[float] | np.ndarray, width: int = 25) -> np.ndarray:
    """Return the running mean over the last `width` values, or over fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
