"""A class for each text, or for each pair of texts."""

from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score

from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import LabelledTexts
from ..predict import Predictions
from .common import Scores
from .from_tables import TableTask, class_names, class_number, labelled


class TextClassification(TableTask):
    """Columns text, label, and optionally text_pair; labels are names or numbers."""

    model_class = "AutoModelForSequenceClassification"
    replaces_head = True
    score = "accuracy"
    usage = 'jm.classify(model, params, tokenizer, ["A text."])'

    def fields(self) -> dict[str, Any]:
        self._names = class_names(self, "label", self._column("train"))
        self._numbers = {name: number for number, name in enumerate(self._names)}
        if len(self._names) < 2:
            raise ValueError(f"{self.tables['train'].source} has one class only, {self._names[0]!r}; two are needed")
        return {"id2label": dict(enumerate(self._names)), "problem_type": "single_label_classification"}

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        table = self.tables[split]
        pairs = table.texts("text_pair") if "text_pair" in table.columns else None
        encoded = tokenizer(table.texts("text"), pairs, truncation=True, max_length=self.max_tokens)
        return labelled(encoded, {"labels": self._labels(split)}, self.config_fields["pad_token_id"])

    def scores(self, split: str, predicted: Predictions) -> Scores:
        return classification_scores(self._labels(split), predicted.best)

    def baselines(self) -> dict[str, Scores]:
        labels = self._labels("train")
        most_frequent = DummyClassifier().fit(np.zeros((len(labels), 1)), labels)
        test = self._labels(self.test_split)
        found = most_frequent.predict(np.zeros((len(test), 1)))
        return {"most frequent class": classification_scores(test, found)}

    def describe(self) -> str:
        return f"{super().describe()}; {len(self._names)} classes"

    def _column(self, split: str) -> list[Any]:
        """Return the labels as they are in the table."""
        table = self.tables[split]
        for value, location in zip(table.columns["label"], table.locations, strict=True):
            if not isinstance(value, str | int) or value == "":
                raise ValueError(f"{location}: label is a name or a whole number, got {value!r:.60}")
        return table.columns["label"]

    def _labels(self, split: str) -> list[int]:
        rows = zip(self._column(split), self.tables[split].locations, strict=True)
        return [class_number(value, self._numbers, location) for value, location in rows]


def classification_scores(labels: Any, found: Any) -> Scores:
    """Compute the accuracy, and the mean of the F1 of all classes."""
    return {
        "accuracy": float(accuracy_score(labels, found)),
        "macro F1": float(f1_score(labels, found, average="macro")),
    }
