"""Masked-LM pretraining, to compare masking rates as in Wettig et al. (2022, arXiv:2202.08005)."""

from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..data import bpe
from ..data.batches import IGNORE
from ..data.masking import MaskedWindows
from ..data.packing import prepare
from ..predict import Predictions
from .common import Scores, Task, max_tokens, tokenizer_config


class MaskedLM(Task):
    """Tokens are masked at `masking.rate` for training and at `masking.eval_rate` for evaluation.

    So runs with different rates are evaluated on the same task. The held-out text is both dev and test set: a run does
    not select anything with it.
    """

    model_class = jm.RobertaPreLayerNormForMaskedLM
    score = "accuracy"

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self._data = prepare(config, folder, max_tokens(config), bpe.ROBERTA)
        assert isinstance(self._data.tokenizer, jm.RobertaTokenizer)
        self.tokenizer = self._data.tokenizer
        self.config_fields = tokenizer_config(self.tokenizer)
        self._length, self._masking = max_tokens(config), config.masking
        train, held_out = self._data.train.tokens, self._data.validation.tokens
        rate = self._masking.rate
        self.train = MaskedWindows(train, self.tokenizer, length=self._length, rate=rate, seed=config.seed, rest=False)
        self.dev = self.test = self._held_out(held_out, self.tokenizer)

    def dev_scores(self, predicted: Predictions) -> Scores:
        return self.test_scores(predicted)

    def test_scores(self, predicted: Predictions) -> Scores:
        labels = self._labels()
        found = np.concatenate([best[: len(row)] for best, row in zip(predicted.best, labels, strict=True)])
        targets = np.concatenate(labels)
        correct = found[targets != IGNORE] == targets[targets != IGNORE]
        return {"loss": predicted.loss, "accuracy": float(np.mean(correct))}

    def baselines(self) -> dict[str, Scores]:
        """Score the token frequencies in the training text, plus one."""
        counts = np.bincount(self._data.train.tokens, minlength=len(self.tokenizer)) + 1.0
        counts[self.tokenizer.all_special_ids] = 0  # these are never predicted
        targets = np.concatenate(self._labels())
        targets = targets[targets != IGNORE]
        return {
            "word frequencies": {
                "loss": float(-np.log(counts[targets] / counts.sum()).mean()),
                "accuracy": float(np.mean(targets == counts.argmax())),
            }
        }

    def describe(self) -> str:
        splits = (("training text", self._data.train), ("held-out text", self._data.validation))
        return "\n".join(
            f"{name}: {split.documents:,} documents, {split.bytes / 1e6:.2f} MB, {len(split.tokens):,} tokens"
            for name, split in splits
        )

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> MaskedWindows:
        """Create the test windows; the text is already tokenized, so only the special tokens are used."""
        return self._held_out(self._data.validation.tokens, tokenizer)

    def _held_out(self, tokens: np.ndarray, tokenizer: jm.RobertaTokenizer) -> MaskedWindows:
        rate = self._masking.eval_rate
        return MaskedWindows(tokens, tokenizer, length=self._length, rate=rate, seed=0, rest=True)

    def _labels(self) -> list[np.ndarray]:
        """Return the labels of each window, [T]."""
        return [
            self.test.batch(np.array([index]), length)["labels"][0] for index, length in enumerate(self.test.lengths)
        ]
