"""What the RAG experiment tells its reader: the set-up, retrieval and answers beside the others, the curves."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn
from ml_collections import FrozenConfigDict

from experiments import metrics, plots
from experiments.data.retrieval import Question
from experiments.rag.prepare import Data
from experiments.report import introduce_model, say
from experiments.retrieval.answers import GOLD, KS
from experiments.retrieval.report import MEANINGS

BM25, BEFORE, RAG = "BM25", "RAG before training", "RAG"
CLOSED, OWN, RAG_OWN = "closed book", "own passage", "RAG's generator, own passage"
SHOWN = 5


def introduce(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Data, model and devices."""
    say(f"passages: {len(data.passages):,}; all are searched")
    say(f"questions: {len(data.train):,} to train on, {len(data.test):,} to test with, split by group (article)")
    introduce_model(model)
    for name in ("reader", "joint"):
        part = config[name]
        seen = part.steps * part.batch_size
        say(f"{name}: {part.steps:,} steps, {seen:,} questions, {seen / len(data.train):.2f} epochs")


def show(result: Mapping, folder: Path) -> None:
    """The result as tables."""
    tables = result["accuracy"]
    for kind, meaning in MEANINGS.items():
        if kind in tables[RAG]:
            say(f"\ntop-k accuracy on {result['questions']:,} test questions: {meaning}")
            say(f"  {'':29}" + "".join(f"{f'top-{k}':>9}" for k in KS))
            for name, table in tables.items():
                say(f"  {name:29}" + "".join(f"{table[kind][str(k)]:9.1%}" for k in KS))
    say(f"\nanswers to {result['answered']:,} test questions, as SQuAD counts them")
    say(f"  {'':29}" + "".join(f"{name:>13}" for name in result["scores"][RAG]))
    for name, table in result["scores"].items():
        say(f"  {name:29}" + "".join(f"{value:13.1%}" for value in table.values()))
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()[:SHOWN]:
        say("\n" + "\n".join(f"  {name:9} {text}" for name, text in json.loads(line).items()))
    say(f"\n  python -m jaxmodels ask --model {folder / 'model'} --index {folder / 'index'} QUESTION")
    for name in ("model", "index", "context_encoder", "curves.png", "answers.jsonl", "RAG/metrics.jsonl"):
        say(f"  {folder / name}")


def write(path: Path, questions: Sequence[Question], answers: Sequence[str]) -> None:
    """Questions, references and answers as JSON lines."""
    lines = (
        {"question": question.text, "right": " | ".join(question.answers), "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    )
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def plot(folder: Path, result: Mapping) -> None:
    """curves.png: the losses of the generator alone and of RAG, and what the encoders find."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, color in ((CLOSED, plots.MUTED), (OWN, plots.VALIDATION)):
        _curve(left, metrics.read(folder / name.replace(" ", "_") / "metrics.jsonl"), name, color)
    left.set_ylabel("nats per token of the answer")
    rows = metrics.read(folder / RAG / "metrics.jsonl")
    _curve(middle, rows, "marginal likelihood", plots.VALIDATION)
    middle.set_ylabel("nats per answer")
    points = [row for row in rows if f"{GOLD}_top_1" in row]
    for k, color in zip(KS, plt.get_cmap("viridis")(np.linspace(0.85, 0.1, len(KS))), strict=True):
        right.plot(
            [row["step"] for row in points],
            [row[f"{GOLD}_top_{k}"] for row in points],
            color=color,
            marker="o",
            markersize=4,
            label=f"top-{k}",
        )
    right.set_ylim(0, 1.02)
    right.set_ylabel("test questions whose passage is found (a part of them)")
    right.legend(frameon=False, loc="lower right")
    ours = result["scores"][RAG]
    left.set_title("the generator alone", loc="left", color=plots.INK)
    middle.set_title(f"RAG, {result['steps']:,} steps: F1 {ours['F1']:.1%}", loc="left", color=plots.INK)
    right.set_title("retrieval", loc="left", color=plots.INK)
    for axes in (left, middle, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    draft = folder / ".curves.png"
    figure.savefig(draft, dpi=130, format="png")
    plt.close(figure)
    os.replace(draft, folder / "curves.png")


def _curve(axes, rows: list[dict], name: str, color: str) -> None:
    """Training as a running mean, the test as points."""
    steps, losses = (np.array([row[key] for row in rows if "loss" in row]) for key in ("step", "loss"))
    axes.plot(steps, plots.smooth(losses), color=color, linewidth=1, alpha=0.6, label=f"{name}: training, running mean")
    points = [row for row in rows if "test_loss" in row]
    axes.plot(
        [row["step"] for row in points],
        [row["test_loss"] for row in points],
        color=color,
        marker="o",
        markersize=4,
        linewidth=2,
        label=f"{name}: test",
    )
    axes.legend(frameon=False)
