"""One run of a task: training, scores, and a folder in Hugging Face's format."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.training.dynamic_scale import DynamicScale
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import TrainState, abstract_state, init_state, place

from .. import failures, loop, metrics, plots, report
from ..configs.finetune import LORA
from ..data import buckets
from ..data.buckets import Examples
from ..loop import mesh_and_rules
from ..optimizer import make_optimizer
from ..predict import Predictions
from ..selection import Criterion
from ..tuning import make_tuning
from .common import Scores, Task

UNTRAINED = "before training"


class Experiment:
    """One run: its config, task and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path, task: Task):
        self.config, self.folder, self.task = config, folder, task
        self.sharding = mesh_and_rules(config)
        self.model: Any
        self.model, self._initial = task.load(config, self.sharding)
        self.tuning = make_tuning(config, self.model, new_head=not task.scores_untrained)
        if self._initial is None and self.tuning.alpha is not None:
            raise ValueError("lora.rank is for a checkpoint, this run starts from random parameters; leave it out")
        # Without it, gradients that are small in float16 would be 0.
        self._loss_scale = DynamicScale() if jnp.dtype(config.dtype) == jnp.float16 else None
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
        model, trainable = self.tuning.model, self.tuning.trainable
        trained: dict[str, Any] = {"trainable": trainable, "loss_scale": self._loss_scale}

        def initial_state() -> TrainState:
            params, self._initial = self._initial, None  # the first step donates their memory
            params = params or jm.init(self.model, self._key(), **self.sharding)
            return init_state(optimizer, self.tuning.start(params, self._key(), self.sharding), **trained)

        return loop.train(
            config,
            self.folder,
            step=self.task.make_step(model, optimizer, config.microbatches, trainable, self.sharding),
            init_state=initial_state,
            abstract_state=lambda: abstract_state(model, optimizer, **self.sharding, **trained),
            data=self.task.training_batches(steps=config.steps, seed=config.seed, **self._shape()),
            place_batch=partial(place, **self.sharding, size=config.batch_size),
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
        predicted = self.predict(self.merge(params), self.task.dev)
        scores = {"loss": predicted.loss, **self.task.dev_scores(predicted)}
        return {f"validation_{name}": value for name, value in scores.items()}

    def merge(self, params: dict) -> dict:
        """Return trained parameters as those of the model without adapters."""
        return self.tuning.merge(params, self.sharding)

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
        if self.config.get("lora", LORA)["save"] == "adapter":
            model, loaded, examples = self._saved_adapter(params)
        else:
            folder = self.folder / "model"
            self.task.save(folder, self.model, self.merge(params))
            multihost_utils.sync_global_devices("model")
            model, loaded, examples = self.task.load_saved(folder, self.config, self.sharding)
        after = self.task.make_predict(model, self.sharding)(loaded, self._batches(examples))
        return sum(not _equal(a, b) for a, b in zip(before.best, after.best, strict=True))

    def _saved_adapter(self, params: dict) -> tuple[Any, dict, Examples]:
        """Save the adapter with model config and tokenizer; load it onto the initial checkpoint as `load_saved`."""
        config, folder, tuning = self.config, self.folder / "adapter", self.tuning
        base = Path(config.init).resolve() if Path(config.init).is_dir() else config.init
        assert tuning.alpha is not None, "only LoRA saves adapters"
        jm.save_adapter(folder, tuning.plain, params, alpha=tuning.alpha, whole=tuning.head, base=base)
        if jax.process_index() == 0:
            (folder / "config.json").write_text(self.model.config.to_json())
            self.task.tokenizer.save_pretrained(folder)
        multihost_utils.sync_global_devices("adapter")
        model: Any
        initial: Any
        model, initial = self.task.load(config, self.sharding)
        loaded = jm.load_adapter(folder, model, initial)
        return model, loaded, self.task.encoded_test(jm.load_tokenizer(folder))

    def _batches(self, examples: Examples):
        batches = buckets.evaluation(examples, **self._shape())
        return ((indices, place(batch, **self.sharding, size=self.config.batch_size)) for indices, batch in batches)

    def _shape(self) -> dict:
        return {
            "batch_size": self.config.batch_size,
            "buckets": self.config.data.buckets,
            "rows": jm.sharding.addressable_rows(**self.sharding, size=self.config.batch_size),
        }


def _equal(first: object, second: object) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def run_task(config: FrozenConfigDict, folder: Path, task: Task) -> dict:
    """Run everything that is not done yet and return the result."""
    with failures.one_line_input_errors():
        experiment = Experiment(config, folder, task)
    print_setup(experiment)
    untrained = experiment.untrained_scores()
    params = experiment.train()
    predicted = experiment.predict(experiment.merge(params), task.test)
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
    """Print data, initial checkpoint, model and number of steps."""
    config, task = experiment.config, experiment.task
    report.print0(task.describe())
    report.print0(f"initial checkpoint: {config.init or 'none'}")
    report.print_model(experiment.model)
    trained, count = experiment.tuning.counts()
    report.print0(f"trained: {trained:,} of {count:,} parameters")
    lengths = task.train.lengths
    report.print0(
        f"training: {config.steps:,} steps of {config.batch_size} of {len(lengths):,} examples; they have "
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
    for name in ("model", "adapter", "loss.png", "score.png", "metrics.jsonl", "tensorboard"):
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
