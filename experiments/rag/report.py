"""Output of the RAG experiment: setup, retrieval and answers compared with the baselines, curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from flax import linen as nn
from matplotlib.axes import Axes
from ml_collections import FrozenConfigDict

from .. import metrics, plots
from ..data.retrieval import Question
from ..report import print0, print_model
from ..retrieval.report import draw_accuracy, show_accuracy
from .prepare import Data

BM25, BEFORE, RAG = "BM25", "RAG before training", "RAG"
# The strings are keys of result.json, and the first two are names of folders.
CLOSED_BOOK, GOLD_PASSAGE, RAG_GOLD_PASSAGE = "closed book", "own passage", "RAG's generator, own passage"
NUM_SHOWN = 5  # answers that are printed


def print_setup(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Print data, model, devices and numbers of epochs."""
    print0(f"passages: {len(data.passages):,}, all of which are searched")
    print0(f"questions: {len(data.train):,} to train on, {len(data.test):,} to test with, split by group (article)")
    print_model(model)
    for name in ("reader", "joint"):
        part = config[name]
        seen = part.steps * part.batch_size
        print0(f"{name}: {part.steps:,} steps, {seen:,} questions, {seen / len(data.train):.2f} epochs")


def show(result: Mapping, folder: Path) -> None:
    """Print the result as tables."""
    show_accuracy(result, RAG, 29)
    print0(f"\nanswers to {result['answered']:,} test questions, with SQuAD's metrics")
    print0(f"  {'':29}" + "".join(f"{name:>13}" for name in result["scores"][RAG]))
    for name, table in result["scores"].items():
        print0(f"  {name:29}" + "".join(f"{value:13.1%}" for value in table.values()))
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_SHOWN]:
        print0("\n" + "\n".join(f"  {name:9} {text}" for name, text in json.loads(line).items()))
    print0(f"\n  jaxmodels ask --model {folder / 'model'} --index {folder / 'index'} QUESTION")
    for name in ("model", "index", "context_encoder", "curves.png", "answers.jsonl", "RAG/metrics.jsonl"):
        print0(f"  {folder / name}")


def write(path: Path, questions: Sequence[Question], answers: Sequence[str]) -> None:
    """Write questions, references and answers as JSON lines."""
    lines = (
        {"question": question.text, "right": " | ".join(question.answers), "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    )
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def plot(folder: Path, result: Mapping) -> None:
    """Write curves.png: the losses of the generator alone and of RAG, and the retrieval accuracy."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, color in ((CLOSED_BOOK, plots.MUTED), (GOLD_PASSAGE, plots.VALIDATION)):
        _curve(left, metrics.read(folder / name.replace(" ", "_") / "metrics.jsonl"), name, color)
    left.set_ylabel("nats per token of the answer")
    rows = metrics.read(folder / RAG / "metrics.jsonl")
    _curve(middle, rows, "marginal likelihood", plots.VALIDATION)
    middle.set_ylabel("nats per answer")
    draw_accuracy(right, rows)
    right.set_ylabel("top-k accuracy on part of the test questions")
    ours = result["scores"][RAG]
    left.set_title("the generator alone", loc="left", color=plots.INK)
    middle.set_title(f"RAG, {result['steps']:,} steps: F1 {ours['F1']:.1%}", loc="left", color=plots.INK)
    right.set_title("retrieval", loc="left", color=plots.INK)
    for axes in (left, middle, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    plots.save(folder / "curves.png", figure)


def _curve(axes: Axes, rows: list[dict], name: str, color: str) -> None:
    """Plot the training loss as a running mean, and the test loss as points."""
    steps, losses = metrics.curve(rows, "loss")
    axes.plot(steps, plots.smooth(losses), color=color, linewidth=1, alpha=0.6, label=f"{name}: training, running mean")
    axes.plot(
        *metrics.curve(rows, "test_loss"),
        color=color,
        marker="o",
        markersize=4,
        linewidth=2,
        label=f"{name}: test",
    )
    axes.legend(frameon=False)
