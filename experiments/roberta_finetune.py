"""Train RoBERTa-PreLayerNorm: masked-LM pretraining, named entities (WNUT-17), intents (BANKING77).

What:      a small model (2.2 million parameters, 3 layers of width 192) on 5.2 MB of English text, then fine-tuned;
           --config.init=FOLDER starts from a checkpoint, "" from random parameters
Command:   jaxmodels run roberta_finetune --config=roberta_mlm_40 (or roberta_mlm_15,
           roberta_wnut17, roberta_banking77) --config.data.path=FOLDER; the last two with
           --config.init=runs/roberta_mlm_40/model. Required files and downloads: see data/published.py
Hardware:  two virtual cores of an Intel Xeon, float32
Time:      19 minutes per pretraining, both at once along with other jobs; 3:45 per fine-tuning, alone
Score:     held-out masked words at 15%: loss 6.321, accuracy 0.118 after training with 15%, and 6.205, 0.127 with 40%;
           by word frequency alone 7.033, 0.040. One seed and 1.1 epochs do not show which rate is better.
           BANKING77: test accuracy 0.802, macro F1 0.801; TF-IDF with logistic regression 0.894 (better).
           WNUT-17: entity F1 on test 0.089 (precision 0.157, recall 0.062); entities of the training set 0.000. So
           little pretraining does not find new names. Neither was run without pretraining.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.training import TrainState, abstract_state, init_state, make_step, place

from . import command, loop, metrics, plots, report
from .data import buckets, published
from .data.buckets import Examples
from .loop import mesh_and_rules
from .optimizer import make_optimizer
from .predict import Predictions, label_count, make_predict
from .tasks.common import Scores, Task
from .tasks.entities import Entities
from .tasks.intents import Intents
from .tasks.masked_lm import MaskedLM

TASKS: dict[str, type[Task]] = {"masked-lm": MaskedLM, "entities": Entities, "intents": Intents}


class Experiment:
    """One run: its config, task and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        if config.task not in TASKS:
            raise ValueError(f"task is one of {', '.join(TASKS)}; got {config.task!r}")
        self.config, self.folder = config, folder
        self.task = TASKS[config.task](config, folder)
        self.sharding = mesh_and_rules(config)
        self.model, self._initial = self._start()
        self._predict = make_predict(self.model, **self.sharding)

    def _start(self) -> tuple[Model, dict | None]:
        """Create the model; return it with the parameters of the initial checkpoint, if there is one."""
        config, cls = self.config, self.task.model_class
        fields = {**config.model, **self.task.config_fields}
        if not config.init:
            return cls(jm.RobertaPreLayerNormConfig(**fields), dtype=jnp.dtype(config.dtype), remat=config.remat), None
        options = {"dtype": config.dtype, "param_dtype": "float32", "remat": config.remat}
        return jm.load(config.init, cls=cls, key=self._key(), **options, **self.sharding, **fields)

    def _key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

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
            step=make_step(
                self.model, optimizer, **self.sharding, microbatches=config.microbatches, weight=label_count
            ),
            init_state=initial_state,
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=buckets.training(self.task.train, steps=config.steps, seed=config.seed, **self._shape()),
            place_batch=partial(place, **self.sharding),
            validate=self._log_validation,
            schedule=schedule,
            items_per_step=(config.batch_size, "examples"),
        )

    def _log_validation(self, params: dict) -> Scores:
        predicted = self.predict(params, self.task.dev)
        scores = {"loss": predicted.loss, **self.task.dev_scores(predicted)}
        return {f"validation_{name}": value for name, value in scores.items()}

    def predict(self, params: dict, examples: Examples) -> Predictions:
        """Compute loss and predictions on all examples."""
        batches = buckets.evaluation(examples, **self._shape())
        return self._predict(params, ((indices, place(batch, **self.sharding)) for indices, batch in batches))

    def save(self, params: dict, before: Predictions) -> int:
        """Save the model and its tokenizer, load both, and predict the test set again.

        Args:
          params: The trained parameters.
          before: Predictions on the test set before saving.

        Returns:
          The number of examples with different predictions.
        """
        folder = self.folder / "model"
        jm.save(folder, self.model, params)
        if jax.process_index() == 0:
            self.task.tokenizer.save_pretrained(folder)
        multihost_utils.sync_global_devices("model")
        model, loaded = jm.load(folder, dtype=self.config.dtype, param_dtype="float32", **self.sharding)
        examples = self.task.encoded_test(jm.load_tokenizer(folder))
        batches = buckets.evaluation(examples, **self._shape())
        after = make_predict(model, **self.sharding)(
            loaded, ((i, place(batch, **self.sharding)) for i, batch in batches)
        )
        return sum(not np.array_equal(a, b) for a, b in zip(before.best, after.best, strict=True))

    def _shape(self) -> dict:
        return {
            "batch_size": self.config.batch_size,
            "buckets": self.config.data.buckets,
            "process": jax.process_index(),
            "processes": jax.process_count(),
        }


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    task = experiment.task
    print_setup(experiment)
    params = experiment.train()
    predicted = experiment.predict(params, task.test)
    result = {
        "task": config.task,
        "steps": config.steps,
        "scores": {report.THIS_MODEL: task.test_scores(predicted), **task.baselines()},
        "different_after_reload": experiment.save(params, predicted),
        "test_examples": len(predicted.best),
    }
    if jax.process_index() == 0:
        plot_curves(folder, result, task.score)
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


def required_data(config: FrozenConfigDict) -> dict[str, str]:
    if config.task == "masked-lm":
        return published.data_by_kind(config)
    files = {"entities": published.WNUT17, "intents": published.BANKING77}
    return {"data.path": files[config.task]} if config.task in files else {}  # `run` rejects other tasks


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    print_scores(result, folder)


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
        report.print0(f"  {folder / name}")


def plot_curves(folder: Path, result: Mapping, score: str) -> None:
    """Write loss.png and score.png, the curves of the whole run.

    Args:
      folder: The output folder.
      result: As for `print_scores`.
      score: Name of the score for score.png.
    """
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
    plots.score_curve(
        folder / "score.png",
        metrics.curve(rows, f"validation_{score}"),
        title=title,
        unit=f"held-out {score}",
        baselines={
            f"{name} (test)": scores[score] for name, scores in result["scores"].items() if name != report.THIS_MODEL
        },
    )


main = partial(command.launch, run, show, "roberta_mlm_40", required_data)
