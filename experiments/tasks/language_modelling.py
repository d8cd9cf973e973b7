"""Language modelling on a column of texts: the next token, or masked ones."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from ..data.batches import IGNORE
from ..data.bpe import token_id
from ..data.buckets import Examples, LabelledTexts
from ..data.masking import MaskedWindows
from ..predict import Batch, Predictions
from .common import Scores
from .from_tables import TableTask


class LanguageModelling(TableTask):
    """Texts follow each other in windows of max_tokens; the last, shorter window is one more."""

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


class CausalLanguageModelling(LanguageModelling):
    """Each text has the special tokens of its tokenizer, and ends with the end-of-text token."""

    model_class = "AutoModelForCausalLM"
    usage = 'jm.generate(model, params, tokenizer(["A text"])["input_ids"], max_new_tokens=20)'

    def weight(self, batch: Batch) -> jax.Array:
        # The model shifts the labels, so that the first has no prediction.
        return (batch["labels"][:, 1:] != IGNORE).sum()

    def targets(self, split: str) -> list[np.ndarray]:
        return [np.append(labels[1:], IGNORE) for labels in super().targets(split)]

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        end = token_id(tokenizer, "eos")
        rows = tokenizer(self.tables[split].texts("text"), truncation=False)["input_ids"]
        tokens = np.concatenate([row if len(row) and row[-1] == end else [*row, end] for row in rows]).astype(np.int32)
        windows = [tokens[start : start + self.max_tokens] for start in range(0, len(tokens), self.max_tokens)]
        # A token alone predicts nothing.
        ids = [window.tolist() for window in windows if len(window) > 1]
        if not ids:
            raise ValueError(f"{self.tables[split].source} has no text")
        return LabelledTexts({"input_ids": ids, "labels": ids}, self.config_fields["pad_token_id"])


class MaskedLanguageModelling(LanguageModelling):
    """Tokens are masked at the rate `masking_rate`, in training anew for each epoch."""

    model_class = "AutoModelForMaskedLM"
    usage = 'model.apply({"params": params}, **tokenizer(["A text."], return_tensors="jax")).logits'

    def encode(self, split: str, tokenizer: Tokenizer) -> Examples:
        texts: Sequence[str] = self.tables[split].texts("text")
        rows: Any = tokenizer(list(texts), add_special_tokens=False, truncation=False)["input_ids"]
        end = token_id(tokenizer, "sep")
        tokens = np.concatenate([[end, *row] for row in rows]).astype(np.int32)
        is_training = split == "train"
        return MaskedWindows(
            tokens,
            tokenizer,
            length=self.max_tokens,
            rate=self.config.masking_rate,
            seed=self.config.seed if is_training else 0,
            rest=not is_training,
        )
