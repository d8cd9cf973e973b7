"""What a task is made of, and what the tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import bpe
from experiments.data.buckets import Examples
from experiments.predict import Predicted

Scores = dict[str, float]


class Task(ABC):
    """Data, a model class with its facts, and what the predictions are worth.

    Attributes:
      train, dev, test: examples; dev is scored while training runs, test once at the end.
      tokenizer: as it is saved with the model.
      facts: keys of the model's config that the data decide.
      score: the name among the scores that the curve is drawn of.
    """

    model_class: ClassVar[type]
    score: ClassVar[str]
    train: Examples
    dev: Examples
    test: Examples
    tokenizer: jm.RobertaTokenizer
    facts: dict[str, Any]

    @abstractmethod
    def dev_scores(self, predicted: Predicted) -> Scores: ...

    @abstractmethod
    def test_scores(self, predicted: Predicted) -> Scores: ...

    @abstractmethod
    def baselines(self) -> dict[str, Scores]:
        """Scores of others on the test set, by name."""

    @abstractmethod
    def describe(self) -> str:
        """The data in a line."""

    @abstractmethod
    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> Examples:
        """The test set as another tokenizer, the one that was saved and loaded, reads it."""


def longest(config: FrozenConfigDict) -> int:
    """Tokens that the model takes: RoBERTa counts positions from the padding id, 1, on."""
    return config.model.max_position_embeddings - 2


def tokenizer_facts(tokenizer: jm.RobertaTokenizer) -> dict[str, int]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def task_tokenizer(
    config: FrozenConfigDict, folder: Path, texts: Callable[[], Iterable[str]], **options
) -> jm.RobertaTokenizer:
    """The tokenizer of `tokenizer.path`, else the one beside the model in `init`, else one trained on the texts."""
    ready = config.tokenizer.path or config.init or folder / "tokenizer"
    if jax.process_index() == 0 and ready == folder / "tokenizer" and not bpe.is_saved(ready):
        trained = bpe.train(texts(), config.tokenizer.vocab_size, bpe.ROBERTA)
        bpe.save(trained, ready, longest(config), bpe.ROBERTA)
    multihost_utils.sync_global_devices("tokenizer")
    return jm.load_tokenizer(ready, cls=jm.RobertaTokenizer, model_max_length=longest(config), **options)
