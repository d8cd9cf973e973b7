"""Masked-LM pretraining; how much to mask is the question of Wettig et al. (2022, arXiv:2202.08005)."""

from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import bpe
from experiments.data.batches import IGNORE
from experiments.data.masking import MaskedWindows
from experiments.data.prepare import prepare
from experiments.predict import Predicted
from experiments.tasks.common import Scores, Task, longest, tokenizer_facts


class MaskedLM(Task):
    """Words hidden at `masking.rate` in training and at `masking.eval_rate` in the held-out text.

    So runs of different rates answer the same questions. The held-out text is dev and test at once: nothing is chosen
    by it during a run.
    """

    model_class = jm.RobertaPreLayerNormForMaskedLM
    score = "accuracy"

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self._data = prepare(config, folder, longest(config), bpe.ROBERTA)
        self.tokenizer = self._data.tokenizer
        self.facts = tokenizer_facts(self.tokenizer)
        self._length, self._masking = longest(config), config.masking
        train, held = self._data.train.tokens, self._data.validation.tokens
        rate = self._masking.rate
        self.train = MaskedWindows(train, self.tokenizer, length=self._length, rate=rate, seed=config.seed, rest=False)
        self.dev = self.test = self._held_out(held, self.tokenizer)

    def dev_scores(self, predicted: Predicted) -> Scores:
        return self.test_scores(predicted)

    def test_scores(self, predicted: Predicted) -> Scores:
        labels = self._answers()
        found = np.concatenate([best[: len(row)] for best, row in zip(predicted.best, labels, strict=True)])
        asked = np.concatenate(labels)
        right = found[asked != IGNORE] == asked[asked != IGNORE]
        return {"loss": predicted.loss, "accuracy": float(np.mean(right))}

    def baselines(self) -> dict[str, Scores]:
        """The words' frequencies in the training text, with one added to every count."""
        counts = np.bincount(self._data.train.tokens, minlength=len(self.tokenizer)) + 1.0
        counts[self.tokenizer.all_special_ids] = 0  # these are never asked for
        asked = np.concatenate(self._answers())
        asked = asked[asked != IGNORE]
        return {
            "word frequencies": {
                "loss": float(-np.log(counts[asked] / counts.sum()).mean()),
                "accuracy": float(np.mean(asked == counts.argmax())),
            }
        }

    def describe(self) -> str:
        sides = (("training text", self._data.train), ("held-out text", self._data.validation))
        return "\n".join(
            f"{name}: {split.documents:,} documents, {split.bytes / 1e6:.2f} MB, {len(split.tokens):,} tokens"
            for name, split in sides
        )

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> MaskedWindows:
        """The text is kept as tokens; of the tokenizer it takes the special ones."""
        return self._held_out(self._data.validation.tokens, tokenizer)

    def _held_out(self, tokens: np.ndarray, tokenizer: jm.RobertaTokenizer) -> MaskedWindows:
        rate = self._masking.eval_rate
        return MaskedWindows(tokens, tokenizer, length=self._length, rate=rate, seed=0, rest=True)

    def _answers(self) -> list[np.ndarray]:
        """Labels of each window, [T]."""
        return [
            self.test.batch(np.array([index]), length)["labels"][0] for index, length in enumerate(self.test.lengths)
        ]
