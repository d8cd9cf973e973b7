"""A class for each text, or for each pair of texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import LabelledTexts
from ..predict import Predictions
from .common import Scores
from .from_tables import TableTask, class_names, class_number, labelled

LINEAR_TEXTS = 20_000  # of the linear classifier, which would take hours with millions


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
        return text_baselines(
            self._texts("train"), self._labels("train"), self._texts(self.test_split), self._labels(self.test_split)
        )

    def describe(self) -> str:
        return f"{super().describe()}; {len(self._names)} classes"

    def _texts(self, split: str) -> list[str]:
        """Return the texts, of pairs both in one."""
        columns = self.tables[split].columns
        parts = [columns[name] for name in ("text", "text_pair") if name in columns]
        return [" ".join(texts) for texts in zip(*parts, strict=True)]

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


def text_baselines(
    train: Sequence[str], train_labels: Sequence[int], test: Sequence[str], test_labels: Sequence[int]
) -> dict[str, Scores]:
    """Score the most frequent class, and a linear classifier of words and word pairs of at most LINEAR_TEXTS texts."""
    linear = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30, max_iter=300)
    )
    chosen = np.linspace(0, len(train) - 1, min(len(train), LINEAR_TEXTS)).astype(int)
    texts, labels = [train[row] for row in chosen], [train_labels[row] for row in chosen]
    scores = {}
    for name, classifier in {"most frequent class": DummyClassifier(), "TF-IDF, logistic regression": linear}.items():
        try:
            classifier.fit(texts, labels)
        except ValueError:  # no words of two letters, or one class only
            continue
        scores[name] = classification_scores(test_labels, classifier.predict(test))
    return scores
