"""RoBERTa-PreLayerNorm trained: masked-LM pretraining, named entities (WNUT-17), intents (BANKING77).

What:      a small model (2.2 million parameters, 3 layers of 192) on 5.2 MB of English text, then fine-tuned;
           --config.init=FOLDER starts from a checkpoint, "" from nothing
Command:   python -m experiments.roberta_finetune --config=experiments/configs/roberta_mlm_40.py (or roberta_mlm_15,
           roberta_wnut17, roberta_banking77) --config.data.path=FOLDER; the last two were given
           --config.init=runs/roberta_mlm_40/model. What each takes and where it is public: data/published.py
Hardware:  two virtual cores of an Intel Xeon, float32
Time:      19 minutes for each pretraining, both at once beside other work; 3:45 for each fine-tuning, alone
Score:     held-out masked words at 15%: loss 6.321, accuracy 0.118 after training with 15%, and 6.205, 0.127 with 40%;
           by word frequency alone 7.033, 0.040. One seed, 1.1 epochs: no proof of which rate is better.
           BANKING77: test accuracy 0.802, macro F1 0.801; TF-IDF with logistic regression 0.894 (not beaten).
           WNUT-17: entity F1 on test 0.089 (precision 0.157, recall 0.062); the training set's entities, 0.000.
           So little pretraining does not find new names. From nothing the two were not run.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import command, loop, report, scores
from experiments.data import buckets, published
from experiments.data.buckets import Examples
from experiments.optimizer import make_optimizer
from experiments.placement import placement
from experiments.predict import Predicted, label_count, make_predict
from experiments.tasks.common import Scores, Task
from experiments.tasks.entities import Entities
from experiments.tasks.intents import Intents
from experiments.tasks.masked_lm import MaskedLM
from jaxmodels.training import abstract_state, init_state, make_step, place

TASKS: dict[str, type[Task]] = {"masked-lm": MaskedLM, "entities": Entities, "intents": Intents}


class Experiment:
    """One run: a config, its task, and the model on its mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        if config.task not in TASKS:
            raise ValueError(f"task is one of {', '.join(TASKS)}; got {config.task!r}")
        self.config, self.folder = config, folder
        self.task = TASKS[config.task](config, folder)
        self.here = placement(config)
        self.model, self._loaded = self._start()
        self._predict = make_predict(self.model, **self.here)

    def _start(self) -> tuple[jm.RobertaPreLayerNormModel, dict | None]:
        """The model, and the parameters of the checkpoint it starts from, if it does."""
        config, cls = self.config, self.task.model_class
        facts = {**config.model, **self.task.facts}
        if not config.init:
            return cls(jm.RobertaPreLayerNormConfig(**facts), dtype=jnp.dtype(config.dtype), remat=config.remat), None
        choices = {"dtype": config.dtype, "param_dtype": "float32", "remat": config.remat}
        return jm.load(config.init, cls=cls, key=self._key(), **choices, **self.here, **facts)

    def _key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    def train(self) -> dict:
        """Trains from the last checkpoint of the run on, or from the start, to the last step; the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)

        def fresh():
            params, self._loaded = self._loaded, None  # the first step gives their memory away
            return init_state(optimizer, params or jm.init(self.model, self._key(), **self.here))

        return loop.train(
            config,
            self.folder,
            step=make_step(self.model, optimizer, **self.here, microbatches=config.microbatches, weight=label_count),
            fresh=fresh,
            like=lambda: abstract_state(self.model, optimizer, **self.here),
            data=buckets.training(self.task.train, steps=config.steps, seed=config.seed, **self._shape()),
            place=partial(place, **self.here),
            validate=self._log_validation,
            schedule=schedule,
            work=(config.batch_size, "examples"),
        )

    def _log_validation(self, params: dict) -> Scores:
        predicted = self.predict(params, self.task.dev)
        found = self.task.dev_scores(predicted)
        return {f"validation_{name}": value for name, value in {"loss": predicted.loss, **found}.items()}

    def predict(self, params: dict, examples: Examples) -> Predicted:
        """Loss and predictions on all of the examples."""
        batches = buckets.evaluation(examples, **self._shape())
        return self._predict(params, ((indices, place(batch, **self.here)) for indices, batch in batches))

    def save(self, params: dict, before: Predicted) -> int:
        """Writes the model and its tokenizer, reads both back, and predicts the test set again.

        Returns how many of the examples are predicted differently from `before`.
        """
        folder = self.folder / "model"
        jm.save(folder, self.model, params)
        if jax.process_index() == 0:
            self.task.tokenizer.save_pretrained(folder)
        multihost_utils.sync_global_devices("model")
        model, loaded = jm.load(folder, dtype=self.config.dtype, param_dtype="float32", **self.here)
        examples = self.task.encoded_test(jm.load_tokenizer(folder))
        batches = buckets.evaluation(examples, **self._shape())
        after = make_predict(model, **self.here)(loaded, ((i, place(batch, **self.here)) for i, batch in batches))
        return sum(not np.array_equal(a, b) for a, b in zip(before.best, after.best, strict=True))

    def _shape(self) -> dict:
        return {
            "rows": self.config.batch_size,
            "buckets": self.config.data.buckets,
            "process": jax.process_index(),
            "processes": jax.process_count(),
        }


@command.once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    experiment = Experiment(config, folder)
    task = experiment.task
    introduce(experiment)
    params = experiment.train()
    predicted = experiment.predict(params, task.test)
    result = {
        "task": config.task,
        "steps": config.steps,
        "scores": {report.OURS: task.test_scores(predicted), **task.baselines()},
        "different_after_reload": experiment.save(params, predicted),
        "test_examples": len(predicted.best),
    }
    if jax.process_index() == 0:
        scores.plot(folder, result, task.score)
    return result


def introduce(experiment: Experiment) -> None:
    """Data, model and how much of the data training sees."""
    config, task = experiment.config, experiment.task
    report.say(task.describe())
    report.say(f"starts from {config.init or 'nothing'}")
    report.introduce_model(experiment.model)
    lengths = task.train.lengths
    epochs = config.steps * config.batch_size / len(lengths)
    report.say(
        f"training: {config.steps:,} steps of {config.batch_size} examples, {epochs:.1f} epochs; an example has "
        f"{lengths.mean():.0f} tokens, at most {lengths.max()}"
    )


def wanted(config: FrozenConfigDict) -> dict[str, str]:
    if config.task == "masked-lm":
        return published.of_kind(config)
    files = {"entities": published.WNUT17, "intents": published.BANKING77}
    return {"data.path": files[config.task]} if config.task in files else {}  # `run` refuses other tasks


def show(result: dict, config: FrozenConfigDict, folder: Path) -> None:
    """The scores beside the baselines'."""
    scores.show(result, folder)


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/roberta_mlm_40.py", wanted)
