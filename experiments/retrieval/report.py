"""Output of the retrieval experiment: setup, results compared with BM25 and the initial model, curves."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from ml_collections import FrozenConfigDict

from .. import metrics, plots
from ..report import compare_reloaded, print0, print_model
from .answers import ANSWER, GOLD, KS
from .prepare import Data

THIS_MODEL, START, BM25 = "this model", "before training", "BM25"
MEANINGS = {
    GOLD: "the gold passage of the question is among the top k",
    ANSWER: "a passage that contains an answer is among the top k",
}


def print_setup(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Print data, model, devices and number of epochs."""
    print0(f"passages: {len(data.passages):,}, {data.passage_tokens.lengths.mean():.0f} tokens each; all are searched")
    cut = (data.passage_tokens.lengths == config.lengths.passage).mean()
    print0(f"  {cut:.1%} of them have lengths.passage={config.lengths.passage} tokens and may be truncated")
    print0(
        f"questions: {len(data.train):,} to train on, {len(data.test):,} to test with, split by group (article, file)"
    )
    print_model(model, "encoders")
    seen = config.steps * config.batch_size
    print0(f"training: {config.steps:,} steps, {seen:,} questions, {seen / len(data.train):.2f} epochs")


def show(result: Mapping, folder: Path) -> None:
    """Print the result as tables."""
    show_accuracy(result, THIS_MODEL, 16)
    print0("")
    compare_reloaded("vectors", result["vectors_after_reload"])
    for name in ("context_encoder", "question_encoder", "curves.png", "metrics.jsonl", "tensorboard"):
        print0(f"  {folder / name}")


def show_accuracy(result: Mapping, model: str, width: int) -> None:
    """Print a table of top-k accuracy for each metric that `model` has; names of models take `width` columns."""
    tables = result["accuracy"]
    for metric, meaning in MEANINGS.items():
        if metric in tables[model]:
            print0(f"\ntop-k accuracy on {result['questions']:,} test questions: {meaning}")
            print0(f"  {'':{width}}" + "".join(f"{f'top-{k}':>9}" for k in KS))
            for name, table in tables.items():
                print0(f"  {name:{width}}" + "".join(f"{table[metric][str(k)]:9.1%}" for k in KS))


def plot(folder: Path, result: Mapping) -> None:
    """Write curves.png: the loss, and the accuracy on the test questions, with BM25 as horizontal lines."""
    rows = metrics.read(folder / "metrics.jsonl")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    steps, losses = metrics.curve(rows, "loss")
    left.plot(steps, losses, color=plots.TRAIN, linewidth=0.6, alpha=0.6)
    left.plot(steps, plots.smooth(losses), color=plots.VALIDATION, linewidth=2, label="running mean")
    left.set_ylim(0, 1.1 * np.percentile(losses, 98))
    left.set_ylabel("training loss in nats (lower is better)")
    left.legend(frameon=False)
    ours, start, bm25 = (result["accuracy"][name][GOLD] for name in (THIS_MODEL, START, BM25))
    first = {"step": 0} | {f"{GOLD}_top_{k}": share for k, share in start.items()}
    for k, line in draw_accuracy(right, [first, *rows]).items():
        right.axhline(bm25[str(k)], color=line.get_color(), linewidth=1, linestyle="--")
    right.plot([], [], color=plots.MUTED, linewidth=1, linestyle="--", label="BM25")
    right.legend(frameon=False, loc="lower right")
    left.set_title(
        f"{result['steps']:,} steps: top-1 {ours['1']:.1%}, top-20 {ours['20']:.1%}", loc="left", color=plots.INK
    )
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    plots.save(folder / "curves.png", figure)


def draw_accuracy(axes: Axes, rows: list[dict]) -> dict[int, Line2D]:
    """Plot the top-k accuracy over the steps in a metrics log; return the lines by k."""
    colors = plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(KS)))
    lines = {}
    for k, color in zip(KS, colors, strict=True):
        points = metrics.curve(rows, f"{GOLD}_top_{k}")
        (lines[k],) = axes.plot(*points, color=color, marker="o", markersize=4, label=f"top-{k}")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("top-k accuracy on test questions")
    axes.legend(frameon=False, loc="lower right")
    return lines
