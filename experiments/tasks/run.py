"""One run of a task: training, scores, and a folder in Hugging Face's format."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import TrainState, abstract_state, init_state, place

from .. import loop, metrics, plots, report
from ..data import buckets
from ..data.buckets import Examples
from ..loop import mesh_and_rules
from ..optimizer import make_optimizer
from ..predict import Predictions
from ..selection import Criterion
from .common import Scores, Task

UNTRAINED = "before training"


class Experiment:
    """One run: its config, task and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path, task: Task):
        self.config, self.folder, self.task = config, folder, task
        self.sharding = mesh_and_rules(config)
        self.model: Any
        self.model, self._initial = task.load(config, self.sharding)
        self._predict = task.make_predict(self.model, self.sharding)

    def _key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    def untrained_scores(self) -> dict[str, Scores]:
        """Return the test scores of the initial checkpoint, if it has a head for the task."""
        if self._initial is None or not self.task.scores_untrained:
            return {}
        return {UNTRAINED: self.task.test_scores(self.predict(self._initial, self.task.test))}

    def train(self) -> dict:
        """Train to the last step, from the last checkpoint if there is one, and return the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)

        def initial_state() -> TrainState:
            params, self._initial = self._initial, None  # the first step donates their memory
            return init_state(optimizer, params or jm.init(self.model, self._key(), **self.sharding))

        return loop.train(
            config,
            self.folder,
            step=self.task.make_step(self.model, optimizer, config.microbatches, self.sharding),
            init_state=initial_state,
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=buckets.training(self.task.train, steps=config.steps, seed=config.seed, **self._shape()),
            place_batch=partial(place, **self.sharding),
            validate=self._log_validation,
            schedule=schedule,
            items_per_step=(config.batch_size, "examples"),
            criterion=self._criterion(),
        )

    def _criterion(self) -> Criterion | None:
        patience = self.config.get("patience")
        if patience is None:
            return None
        return Criterion(f"validation_{self.task.score}", self.task.higher_is_better, patience)

    def _log_validation(self, params: dict) -> Scores:
        predicted = self.predict(params, self.task.dev)
        scores = {"loss": predicted.loss, **self.task.dev_scores(predicted)}
        return {f"validation_{name}": value for name, value in scores.items()}

    def predict(self, params: dict, examples: Examples) -> Predictions:
        """Compute loss and predictions on all examples."""
        return self._predict(params, self._batches(examples))

    def save(self, params: dict, before: Predictions) -> int:
        """Save the model and its tokenizers, load them, and predict the test set again.

        Args:
          params: The trained parameters.
          before: Predictions on the test set before saving.

        Returns:
          The number of examples with different predictions.
        """
        folder = self.folder / "model"
        self.task.save(folder, self.model, params)
        multihost_utils.sync_global_devices("model")
        model, loaded, examples = self.task.load_saved(folder, self.config, self.sharding)
        after = self.task.make_predict(model, self.sharding)(loaded, self._batches(examples))
        return sum(not _equal(a, b) for a, b in zip(before.best, after.best, strict=True))

    def _batches(self, examples: Examples):
        batches = buckets.evaluation(examples, **self._shape())
        return ((indices, place(batch, **self.sharding)) for indices, batch in batches)

    def _shape(self) -> dict:
        return {
            "batch_size": self.config.batch_size,
            "buckets": self.config.data.buckets,
            "process": jax.process_index(),
            "processes": jax.process_count(),
        }


def _equal(first: object, second: object) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def run_task(config: FrozenConfigDict, folder: Path, task: Task) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder, task)
    print_setup(experiment)
    untrained = experiment.untrained_scores()
    params = experiment.train()
    predicted = experiment.predict(params, task.test)
    result = {
        "task": config.task,
        "steps": config.steps,
        "scores": {report.THIS_MODEL: task.test_scores(predicted), **untrained, **task.baselines()},
        "different_after_reload": experiment.save(params, predicted),
        "test_examples": len(predicted.best),
    }
    if jax.process_index() == 0:
        plot_curves(folder, result, task)
    return result


def print_setup(experiment: Experiment) -> None:
    """Print data, initial checkpoint, model and number of epochs."""
    config, task = experiment.config, experiment.task
    report.print0(task.describe())
    report.print0(f"initial checkpoint: {config.init or 'none'}")
    report.print_model(experiment.model)
    lengths = task.train.lengths
    epochs = config.steps * config.batch_size / len(lengths)
    report.print0(
        f"training: {config.steps:,} steps of {config.batch_size} examples, {epochs:.1f} epochs; examples have "
        f"{lengths.mean():.0f} tokens on average, {lengths.max()} at most"
    )


def print_scores(result: Mapping, folder: Path) -> None:
    """Print the test scores as a table with one line per model or baseline, and the paths of the output files.

    Args:
      result: {"scores": {model: {score: number}}, "different_after_reload": n, "test_examples": n}.
      folder: The output folder.
    """
    names = list(result["scores"][report.THIS_MODEL])
    width = max(map(len, result["scores"])) + 2
    report.print0("\n" + " " * width + "  ".join(names))
    for model, scores in result["scores"].items():
        cells = [f"{scores[name]:.3f}" if name in scores else "-" for name in names]
        report.print0(
            f"{model:{width}}" + "  ".join(f"{cell:>{len(name)}}" for cell, name in zip(cells, names, strict=True))
        )
    count, of = result["different_after_reload"], result["test_examples"]
    report.print0(f"saved in Hugging Face's format and loaded again: predictions of {count} of {of} examples differ")
    for name in ("model", "loss.png", "score.png", "metrics.jsonl", "tensorboard"):
        if (folder / name).exists():
            report.print0(f"  {folder / name}")


def plot_curves(folder: Path, result: Mapping, task: Task) -> None:
    """Write loss.png and, unless the score is the loss, score.png, the curves of the whole run.

    Args:
      folder: The output folder.
      result: As for `print_scores`.
      task: The task; its score is that of score.png.
    """
    score = task.score
    rows = metrics.read(folder / "metrics.jsonl")
    ours = result["scores"][report.THIS_MODEL]
    title = f"{result['task']}, {result['steps']:,} steps: test {score} {ours[score]:.3f}"
    plots.loss_curve(
        folder / "loss.png",
        metrics.curve(rows, "loss"),
        metrics.curve(rows, "validation_loss"),
        title=title,
        unit="nats per label",
        held_out="held out, without dropout",
        baselines={
            name: scores["loss"]
            for name, scores in result["scores"].items()
            if name != report.THIS_MODEL and "loss" in scores
        },
    )
    if score == "loss":
        return
    plots.score_curve(
        folder / "score.png",
        metrics.curve(rows, f"validation_{score}"),
        title=title,
        unit=f"held-out {score}",
        baselines={
            f"{name} (test)": scores[score] for name, scores in result["scores"].items() if name != report.THIS_MODEL
        },
    )
