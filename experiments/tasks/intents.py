"""Intent detection as sequence classification: BANKING77."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..data import banking
from ..data.bpe import token_id
from ..data.buckets import LabelledTexts
from ..data.corpus import held_out
from ..predict import Predictions
from .common import Scores, Task, max_tokens, task_tokenizer, tokenizer_config
from .problems import classification_scores, classifiers, text_baselines


class Intents(Task):
    """A category for each text. BANKING77 has no dev set, so a share `data.held_out` of the training texts is used."""

    model_class = jm.RobertaPreLayerNormForSequenceClassification
    score = "accuracy"

    def __init__(self, config: FrozenConfigDict, folder: Path):
        root = Path(config.data.path)
        self._categories = banking.categories(root)
        all_examples, fraction = banking.read(root, "train"), config.data.held_out
        self._examples = {
            "train": [example for example in all_examples if not held_out(example.text, fraction)],
            "dev": [example for example in all_examples if held_out(example.text, fraction)],
            "test": banking.read(root, "test"),
        }
        for split, examples in self._examples.items():
            if not examples:
                raise ValueError(f"data.held_out={fraction} leaves no examples for {split}")
        self._max_tokens = max_tokens(config)
        self.tokenizer = task_tokenizer(config, folder, lambda: self._texts("train"))
        self.train, self.dev, self.test = (self._encode(split, self.tokenizer) for split in self._examples)
        self.config_fields = tokenizer_config(self.tokenizer) | {
            "id2label": dict(enumerate(self._categories)),
            "problem_type": "single_label_classification",
        }

    def dev_scores(self, predicted: Predictions) -> Scores:
        return self._scores("dev", predicted.best)

    def test_scores(self, predicted: Predictions) -> Scores:
        return self._scores("test", predicted.best)

    def baselines(self) -> dict[str, Scores]:
        train, test = ((self._texts(split), self._labels(split)) for split in ("train", "test"))
        return text_baselines(classifiers(), classification_scores, *train, *test)

    def describe(self) -> str:
        sizes = ", ".join(f"{split}: {len(examples):,} texts" for split, examples in self._examples.items())
        return f"{sizes}; {len(self._categories)} categories"

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        return self._encode("test", tokenizer)

    def _encode(self, split: str, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        ids = tokenizer(self._texts(split), truncation=True, max_length=self._max_tokens)["input_ids"]
        return LabelledTexts({"input_ids": ids, "labels": self._labels(split)}, token_id(tokenizer, "pad"))

    def _texts(self, split: str) -> list[str]:
        return [example.text for example in self._examples[split]]

    def _labels(self, split: str) -> list[int]:
        return [self._categories.index(example.category) for example in self._examples[split]]

    def _scores(self, split: str, found: Sequence[int] | np.ndarray | list[np.ndarray]) -> Scores:
        return classification_scores(self._labels(split), found)
