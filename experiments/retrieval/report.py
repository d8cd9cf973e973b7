"""What the retrieval experiment tells its reader: the set-up, the result beside BM25 and the start, the curves."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn
from ml_collections import FrozenConfigDict

from experiments import metrics, plots
from experiments.report import say
from experiments.retrieval.answers import ANSWER, GOLD, KS
from experiments.retrieval.prepare import Data
from jaxmodels.parameters import abstract

OURS, START, BM25 = "this model", "before training", "BM25"
MEANINGS = {
    GOLD: "the question's own passage is among the first k",
    ANSWER: "a passage with an answer in it is among the first k",
}


def introduce(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Data, model and devices."""
    say(f"passages: {len(data.passages):,}, {data.passage_tokens.lengths.mean():.0f} tokens each; all are searched")
    cut = (data.passage_tokens.lengths == config.lengths.passage).mean()
    say(f"  {cut:.1%} of them fill lengths.passage={config.lengths.passage} and may have been cut")
    say(f"questions: {len(data.train):,} to train on, {len(data.test):,} to test with, split by group (article, file)")
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(model)))
    say(f"encoders: {count / 1e6:.2f} million parameters on {jax.device_count()} x {jax.devices()[0].device_kind}")
    seen = config.steps * config.batch_size
    say(f"training: {config.steps:,} steps, {seen:,} questions, {seen / len(data.train):.2f} epochs")


def show(result: Mapping, folder: Path) -> None:
    """The result as tables."""
    tables = result["accuracy"]
    for kind, meaning in MEANINGS.items():
        if kind in tables[OURS]:
            say(f"\ntop-k accuracy on {result['questions']:,} test questions: {meaning}")
            say(f"  {'':16}" + "".join(f"{f'top-{k}':>9}" for k in KS))
            for name, table in tables.items():
                say(f"  {name:16}" + "".join(f"{table[kind][str(k)]:9.1%}" for k in KS))
    difference = result["vectors_after_reload"]
    same = "equal, bit for bit" if difference == 0 else f"different by up to {difference:.2g}"
    say(f"\nsaved in Hugging Face's format and loaded again: vectors {same}")
    for name in ("context_encoder", "question_encoder", "curves.png", "metrics.jsonl", "tensorboard"):
        say(f"  {folder / name}")


def plot(folder: Path, result: Mapping) -> None:
    """curves.png: the loss, and the accuracy on the test questions with BM25's as lines."""
    rows = metrics.read(folder / "metrics.jsonl")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    steps, losses = (np.array([row[name] for row in rows if "loss" in row]) for name in ("step", "loss"))
    left.plot(steps, losses, color=plots.TRAIN, linewidth=0.6, alpha=0.6)
    left.plot(steps, plots.smooth(losses), color=plots.VALIDATION, linewidth=2, label="running mean")
    left.set_ylim(0, 1.1 * np.percentile(losses, 98))
    left.set_ylabel("training loss in nats (lower is better)")
    left.legend(frameon=False)
    tables, points = result["accuracy"], [row for row in rows if f"{GOLD}_top_1" in row]
    for k, color in zip(KS, plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(KS))), strict=True):
        values = [tables[START][GOLD][str(k)], *(row[f"{GOLD}_top_{k}"] for row in points)]
        right.plot(
            [0, *(row["step"] for row in points)], values, color=color, marker="o", markersize=4, label=f"top-{k}"
        )
        right.axhline(tables[BM25][GOLD][str(k)], color=color, linewidth=1, linestyle="--")
    right.plot([], [], color=plots.MUTED, linewidth=1, linestyle="--", label="BM25")
    right.set_ylim(0, 1.02)
    right.set_ylabel("test questions whose passage is found")
    right.legend(frameon=False, loc="lower right")
    best = tables[OURS][GOLD]
    left.set_title(
        f"{result['steps']:,} steps: top-1 {best['1']:.1%}, top-20 {best['20']:.1%}", loc="left", color=plots.INK
    )
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    draft = folder / ".curves.png"
    figure.savefig(draft, dpi=130, format="png")
    plt.close(figure)
    os.replace(draft, folder / "curves.png")
