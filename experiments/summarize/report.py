"""Output of the summarisation experiment: setup, ROUGE of model and baselines, some summaries, loss curve."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import linen as nn
from ml_collections import FrozenConfigDict

from .. import metrics, plots, report
from ..data.qmsum import Collection
from ..report import THIS_MODEL, print0
from .data import Data, Summaries

NUM_SHOWN = 3  # summaries that are printed


def print_setup(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Print data, model and number of epochs."""
    for name, found, tokens in (
        ("training", data.train, data.train_tokens),
        ("test", data.test, data.test_tokens),
        ("transfer", data.transfer, data.transfer_tokens),
    ):
        lengths = np.array([len(document) for document in tokens.documents])
        truncated = np.mean(tokens.lengths == config.lengths.source)
        print0(
            f"{name}: {len(found.requests):,} requests about {len(found.documents)} documents of {lengths.mean():,.0f} "
            f"tokens ({lengths.max():,} at most); {truncated:.0%} reach lengths.source={config.lengths.source:,}"
        )
    report.print_model(model)
    epochs = config.steps * config.batch_size / len(data.train.requests)
    print0(f"training: {config.steps:,} steps of {config.batch_size} requests, {epochs:.1f} epochs")


def write(path: Path, found: Collection, summaries: Sequence[str]) -> None:
    """Write queries, summaries and references as JSON lines."""
    lines = (
        json.dumps({"query": request.query, "summary": summary, "reference": request.summary}, ensure_ascii=False)
        for request, summary in zip(found.requests, summaries, strict=True)
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def show(result: Mapping, folder: Path) -> None:
    """Print the scores as tables."""
    for split, meaning in (("test", "test requests"), ("transfer", "documents of another type")):
        tables = result[split]
        print0(f"\nROUGE F1 on {result[f'{split}_requests']} {meaning}")
        width = max(map(len, tables)) + 2
        metric_names = list(tables[THIS_MODEL])
        print0("  " + " " * width + "".join(f"{metric:>9}" for metric in metric_names))
        for name, table in tables.items():
            print0(f"  {name:{width}}" + "".join(f"{table[metric]:9.3f}" for metric in metric_names))
    losses = result["loss"]
    print0(
        f"\nloss per token of the test summaries: {losses['own document']:.3f}, with another document "
        f"{losses['another document']:.3f}, by token frequencies {losses['token frequencies']:.3f}"
    )
    for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_SHOWN]:
        entry = json.loads(line)
        print0("\n" + "\n".join(f"  {name:9} {text}" for name, text in entry.items()))
    print0("")
    for name in ("model", "attention_map.png", "loss.png", "test.jsonl", "transfer.jsonl", "metrics.jsonl"):
        print0(f"  {folder / name}")


def plot(folder: Path, result: Mapping) -> None:
    """Write loss.png, the loss curve of the whole run."""
    rows = metrics.read(folder / "metrics.jsonl")
    metric, score = next(iter(result["test"][THIS_MODEL].items()))
    plots.loss_curve(
        folder / "loss.png",
        metrics.curve(rows, "loss"),
        metrics.curve(rows, "test_loss"),
        title=f"LED, {result['steps']:,} steps at {result['source']:,} tokens: test {metric} {score:.3f}",
        unit="nats per token",
        held_out="test meetings, without dropout",
        baselines={"token frequencies": result["loss"]["token frequencies"]},
    )


def frequency_loss(train: Summaries, test: Summaries, vocabulary: int) -> float:
    """Return the loss per token of the test summaries by token frequencies in the training summaries, plus one."""
    counts = np.bincount(np.concatenate(train.labels), minlength=vocabulary) + 1.0
    return float(-np.log(counts[np.concatenate(test.labels)] / counts.sum()).mean())
