"""The loss curve as a picture."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

INK, MUTED, TRAIN, VALIDATION = "#222222", "#777777", "#9ecae1", "#08519c"


def loss_curve(path: Path, train: tuple, validation: tuple, baselines: dict[str, float], title: str) -> None:
    """Draws bits per byte over steps.

    Args:
      train, validation: (steps, bits per byte), sequences of the same length. The training curve is noisy, a batch per
        point; its running mean is drawn over it.
      baselines: name -> bits per byte, as horizontal lines.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    steps, bits = map(np.asarray, train)
    axes.plot(steps, bits, color=TRAIN, linewidth=0.6, alpha=0.6)
    axes.plot(steps, _smooth(bits), color=TRAIN, linewidth=2, label="training (running mean)")
    axes.plot(
        *validation,
        color=VALIDATION,
        linewidth=2,
        marker="o",
        markersize=4,
        label="validation, on a part of the held-out text",
    )
    axes.set_xlim(0, steps.max() * 1.02)
    low = min([*validation[1], *baselines.values(), np.percentile(bits, 1)])
    high = max([*baselines.values(), np.percentile(bits, 97), validation[1][0]])
    axes.set_ylim(low - 0.08 * (high - low), high + 0.05 * (high - low))
    for name, value in baselines.items():
        axes.axhline(value, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate(
            f"{name} {value:.2f}", (0, value), xycoords=("axes fraction", "data"), xytext=(4, 3),
            textcoords="offset points", color=MUTED, fontsize=9,
        )  # fmt: skip
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.98))
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, dpi=130, format="png")
    plt.close(figure)
    os.replace(draft, path)


def _smooth(values: np.ndarray, width: int = 25) -> np.ndarray:
    """Mean over the last `width` values, or over as many as there are."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
