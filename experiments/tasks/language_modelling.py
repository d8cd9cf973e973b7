"""Language modelling on a column of texts: the next token, or masked ones."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any

import jax
import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from ..data.batches import IGNORE
from ..data.bpe import token_id
from ..data.buckets import Examples, LabelledTexts
from ..data.masking import MaskedExamples, MaskedWindows, Masking
from ..data.segments import packed
from ..predict import Batch, Predictions
from .common import Scores
from .from_tables import TableTask

PACKINGS = ("segments", "windows", "none")


class TokenPrediction(TableTask):
    """Predicts tokens of a column of texts, without generating any."""

    scores_untrained = True
    score = "loss"
    higher_is_better = False

    def scores(self, split: str, predicted: Predictions) -> Scores:
        labels = self.targets(split)
        found = [best[: len(row)] for best, row in zip(predicted.best, labels, strict=True)]
        correct = np.concatenate([a == b for a, b in zip(found, labels, strict=True)])
        share = float(correct.sum() / sum((row != IGNORE).sum() for row in labels))
        return {"loss": predicted.loss, "perplexity": math.exp(min(predicted.loss, 700.0)), "accuracy": share}

    def targets(self, split: str) -> list[np.ndarray]:
        """Return what each output of each example is compared with, int [T]."""
        examples = {"train": self.train, "validation": self.dev, "test": self.test}[split]
        return [
            examples.batch(np.array([row]), int(length))["labels"][0] for row, length in enumerate(examples.lengths)
        ]


class LanguageModelling(TokenPrediction):
    """The texts are divided into rows of at most max_tokens as `packing` says."""

    def fields(self) -> dict[str, Any]:
        if self.config.packing not in PACKINGS:
            raise ValueError(f"packing is one of {', '.join(PACKINGS)}; got {self.config.packing!r}")
        return {}

    def encode(self, split: str, tokenizer: Tokenizer) -> Examples:
        texts: Sequence[str] = self.tables[split].texts("text")
        if self.config.packing == "windows":
            return self.windows(split, tokenizer, texts)
        pieces = self.pieces(tokenizer, texts)
        if not pieces:
            raise ValueError(f"{self.tables[split].source} has no text")
        pad = self.config_fields["pad_token_id"]
        if self.config.packing == "segments":
            return packed(pieces, self.max_tokens, pad)
        return LabelledTexts({"input_ids": pieces, "labels": [[IGNORE, *piece[1:]] for piece in pieces]}, pad)

    @abstractmethod
    def pieces(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize the texts, those of more than max_tokens in several pieces, without those that predict nothing."""

    @abstractmethod
    def windows(self, split: str, tokenizer: Tokenizer, texts: Sequence[str]) -> Examples:
        """Tokenize the texts as windows over all of them."""


class CausalLanguageModelling(LanguageModelling):
    """Each text has the special tokens of its tokenizer, and ends with the end-of-text token."""

    model_class = "AutoModelForCausalLM"
    usage = 'jm.generate(model, params, tokenizer(["A text"])["input_ids"], max_new_tokens=20)'

    def weight(self, batch: Batch) -> jax.Array:
        # The model shifts the labels, so that the first has no prediction.
        return (batch["labels"][:, 1:] != IGNORE).sum()

    def targets(self, split: str) -> list[np.ndarray]:
        return [np.append(labels[1:], IGNORE) for labels in super().targets(split)]

    def pieces(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        return [piece for row in _ended(tokenizer, texts) for piece in cut(row, self.max_tokens) if len(piece) > 1]

    def windows(self, split: str, tokenizer: Tokenizer, texts: Sequence[str]) -> LabelledTexts:
        tokens = list(chain.from_iterable(_ended(tokenizer, texts)))
        # A token alone predicts nothing.
        ids = [window for window in cut(tokens, self.max_tokens) if len(window) > 1]
        if not ids:
            raise ValueError(f"{self.tables[split].source} has no text")
        return LabelledTexts({"input_ids": ids, "labels": ids}, self.config_fields["pad_token_id"])


class MaskedLanguageModelling(LanguageModelling):
    """Tokens are masked at the rate `masking_rate`, in training anew for each epoch."""

    model_class = "AutoModelForMaskedLM"
    usage = 'model.apply({"params": params}, **tokenizer(["A text."], return_tensors="jax")).logits'

    def encode(self, split: str, tokenizer: Tokenizer) -> Examples:
        examples = super().encode(split, tokenizer)
        if isinstance(examples, MaskedWindows):
            return examples
        return MaskedExamples(examples, Masking(tokenizer, self.config.masking_rate), self._seed(split))

    def pieces(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        begin, end = token_id(tokenizer, "cls"), token_id(tokenizer, "sep")
        return [
            [begin, *piece, end] for row in bare(tokenizer, texts) for piece in cut(row, self.max_tokens - 2) if piece
        ]

    def windows(self, split: str, tokenizer: Tokenizer, texts: Sequence[str]) -> MaskedWindows:
        end = token_id(tokenizer, "sep")
        tokens = np.concatenate([[end, *row] for row in bare(tokenizer, texts)]).astype(np.int32)
        return MaskedWindows(
            tokens,
            tokenizer,
            length=self.max_tokens,
            rate=self.config.masking_rate,
            seed=self._seed(split),
            rest=split != "train",
        )

    def _seed(self, split: str) -> int:
        return self.config.seed if split == "train" else 0


def _ended(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    end = token_id(tokenizer, "eos")
    rows: Any = tokenizer(list(texts), truncation=False)["input_ids"]
    return [[*row] if len(row) and row[-1] == end else [*row, end] for row in rows]


def bare(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts without special tokens."""
    rows: Any = tokenizer(list(texts), add_special_tokens=False, truncation=False)["input_ids"]
    return [list(row) for row in rows]


def cut(ids: list[int], length: int) -> list[list[int]]:
    """Cut ids into pieces of `length` tokens and a shorter rest."""
    return [ids[start : start + length] for start in range(0, len(ids), length)]
