"""The base class of tasks, and functions that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import grain
import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.training import Trainable, make_step

from ..data import bpe, buckets
from ..data.buckets import Examples
from ..loop import Sharding, TrainStep
from ..predict import Batch, Predict, Predictions, best_class, label_count, make_predict, own_loss

Scores = dict[str, float]


class Task(ABC):
    """The data of a task, its model class, and its metrics.

    Attributes:
      model_class: Class of the model, or an auto class for any family; then config.init is required.
      replaces_head: Whether the head is initialised where that of the checkpoint has other sizes.
      scores_untrained: Whether checkpoints have a head for the task, so that they can be scored before training.
      generates: Whether predictions are generated, by `generate`.
      score: Name of the metric to plot, and by which parameters are selected.
      higher_is_better: Whether this metric is better if it is higher.
      train: Training examples.
      dev: Examples that are scored during training.
      test: Examples that are scored once at the end.
      tokenizer: The tokenizer, as it is saved with the model.
      config_fields: Fields of the model config that depend on the data.
      model_options: Attributes of the model that its config does not have.
    """

    model_class: ClassVar[type[Model] | str]
    replaces_head: ClassVar[bool] = False
    scores_untrained: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    score: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    train: Examples
    dev: Examples
    test: Examples
    tokenizer: Tokenizer
    config_fields: dict[str, Any]
    model_options: dict[str, Any] = {}

    @abstractmethod
    def __init__(self, config: FrozenConfigDict, folder: Path):
        """Load the data; a tokenizer may be stored in `folder`."""

    def weight(self, batch: Batch) -> jax.Array:
        """Return the number of terms in the mean loss of a batch."""
        return label_count(batch)

    def loss(self, output: Any, batch: Batch) -> jax.Array:
        """Return the mean loss of the labels in an evaluated batch, whose last rows may be without labels."""
        return own_loss(output, batch)

    def keep(self, output: Any) -> Any:
        """Return the arrays [B, ...] of a model's output that are kept as predictions."""
        return best_class(output)

    def generate(self, model: Model, params: Any, batch: Batch) -> Any:
        """Return the predictions of a batch, arrays [B, ...], where a forward pass does not suffice."""
        raise NotImplementedError

    def load(self, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict | None]:
        """Create the model; return it with the parameters of the initial checkpoint, if there is one."""
        cls, fields = self.model_class, {**config.model, **self.config_fields}
        if not config.init:
            assert isinstance(cls, type), "tasks that start from any checkpoint require one"
            return cls(cls.config_class(**fields), dtype=jnp.dtype(config.dtype), remat=config.remat), None
        options: dict[str, Any] = {"dtype": config.dtype, "param_dtype": "float32", "remat": config.remat}
        options |= {"ignore_mismatched_sizes": self.replaces_head, **sharding, **self.model_options}
        return jm.load(config.init, cls=cls, key=jax.random.key(config.seed), **options, **fields)

    def training_batches(self, *, seed: int, steps: int, **shape: Any) -> grain.DatasetIterator:
        """Return an iterator over the batches of a training run; shape: as for `buckets.training`."""
        return buckets.training(self.train, seed=seed, steps=steps, **shape)

    def make_step(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        microbatches: int,
        trainable: Trainable | None,
        sharding: Sharding,
    ) -> TrainStep:
        """Create the training step."""
        return make_step(
            model, optimizer, **sharding, microbatches=microbatches, weight=self.weight, trainable=trainable
        )

    def make_predict(self, model: Any, sharding: Sharding) -> Predict:
        """Create predict(params, batches) -> Predictions."""
        generate = partial(self.generate, model) if self.generates else None
        return make_predict(model, **sharding, weight=self.weight, loss=self.loss, keep=self.keep, generate=generate)

    def save(self, folder: Path, model: Any, params: dict) -> None:
        """Save the model and its tokenizer."""
        jm.save(folder, model, params)
        if jax.process_index() == 0:
            self.tokenizer.save_pretrained(folder)

    def load_saved(self, folder: Path, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict, Examples]:
        """Load what `save` wrote; return model, parameters, and the test examples by the saved tokenizer."""
        options: dict[str, Any] = {**sharding, **self.model_options}
        model, params = jm.load(folder, dtype=config.dtype, param_dtype="float32", **options)
        return model, params, self.encoded_test(jm.load_tokenizer(folder))

    @abstractmethod
    def dev_scores(self, predicted: Predictions) -> Scores:
        """Score predictions on the dev examples."""

    @abstractmethod
    def test_scores(self, predicted: Predictions) -> Scores:
        """Score predictions on the test examples."""

    @abstractmethod
    def baselines(self) -> dict[str, Scores]:
        """Return the test scores of the baselines, by name."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the data in a line."""

    @abstractmethod
    def encoded_test(self, tokenizer: Any) -> Examples:
        """Tokenize the test examples with another tokenizer, the one that was saved and loaded."""


def max_tokens(config: FrozenConfigDict) -> int:
    """Return the maximum number of tokens: the position ids of RoBERTa start after the padding id, 1."""
    return config.model.max_position_embeddings - 2


def tokenizer_config(tokenizer: jm.RobertaTokenizer) -> dict[str, int]:
    """Return the fields of the model config that depend on the tokenizer."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def task_tokenizer(
    config: FrozenConfigDict, folder: Path, texts: Callable[[], Iterable[str]], **options: Any
) -> jm.RobertaTokenizer:
    """Load the tokenizer from `tokenizer.path` or `init`, or train one on the texts and store it in `folder`."""
    source = config.tokenizer.path or config.init or folder / "tokenizer"
    if jax.process_index() == 0 and source == folder / "tokenizer" and not bpe.is_saved(source):
        trained = bpe.train(texts(), config.tokenizer.vocab_size, bpe.ROBERTA)
        bpe.save(trained, source, max_tokens(config), bpe.ROBERTA)
    multihost_utils.sync_global_devices("tokenizer")
    return jm.load_tokenizer(source, cls=jm.RobertaTokenizer, model_max_length=max_tokens(config), **options)
