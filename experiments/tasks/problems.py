"""What a text has: one class, several labels, or a number; under the reference's names of problem_type."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from ..predict import best_class
from .common import Scores
from .from_tables import TableTask, class_names, class_number

LINEAR_TEXTS = 20_000  # of the linear models, which would take hours with millions


class Problem(ABC):
    """The labels of a task's tables, their metrics and baselines.

    Attributes:
      score: The metric by which parameters are selected.
      higher_is_better: Whether this metric is better if it is higher.
      fields: Fields of the model config.
    """

    score: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    fields: dict[str, Any]

    def __init__(self, task: TableTask):
        self.task = task

    @abstractmethod
    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split: int32 [N], or float32 [N] or [N,num_labels].

        Raises:
          ValueError: A row has another kind of label. The message gives its location.
        """

    @abstractmethod
    def keep(self, output: Any) -> jax.Array:
        """Return the predictions of a batch from the logits, in the shape of the labels."""

    @abstractmethod
    def scores(self, labels: np.ndarray, found: Any) -> Scores:
        """Score predictions, which have the shape of the labels."""

    @abstractmethod
    def estimators(self) -> Mapping[str, BaseEstimator]:
        """Return the baselines by name: one that ignores the words, and a linear one."""

    @abstractmethod
    def describe(self) -> str:
        """Describe the labels in a few words."""


class SingleLabel(Problem):
    """A class for each text; labels are names or numbers."""

    score = "accuracy"

    def __init__(self, task: TableTask):
        super().__init__(task)
        self._names = class_names(task, "label", self._column(task.first_split))
        self._numbers = {name: number for number, name in enumerate(self._names)}
        if len(self._names) < 2:
            raise ValueError(f"{task.first.source} has one class only, {self._names[0]!r}; two are needed")
        self.fields = {"id2label": dict(enumerate(self._names))}

    def labels(self, split: str) -> np.ndarray:
        rows = zip(self._column(split), self.task.tables[split].locations, strict=True)
        return np.array([class_number(self.task, value, self._numbers, location) for value, location in rows], np.int32)

    def keep(self, output: Any) -> jax.Array:
        return best_class(output)

    def scores(self, labels: np.ndarray, found: Any) -> Scores:
        return classification_scores(labels, found)

    def estimators(self) -> Mapping[str, BaseEstimator]:
        return classifiers()

    def describe(self) -> str:
        return f"{len(self._names)} classes"

    def _column(self, split: str) -> list[Any]:
        """Return the labels as they are in the table."""
        table = self.task.tables[split]
        for value, location in zip(table.columns["label"], table.locations, strict=True):
            if not isinstance(value, str | int) or value == "":
                raise ValueError(f"{location}: label is a name or a whole number, got {value!r:.60}")
        return table.columns["label"]


class MultiLabel(Problem):
    """Any number of labels for each text: lists of names or numbers, or a column of 0 and 1 for each label."""

    score = "micro F1"

    def __init__(self, task: TableTask):
        super().__init__(task)
        columns = task.config.columns.label.split(",")
        self._has_columns = len(columns) > 1
        train = [name for names in self._lists(task.first_split) for name in names]
        self._names = columns if self._has_columns else class_names(task, "label", train)
        if not self._names:
            raise ValueError(f"{task.first.source} has no labels; at least one row has to have one")
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self.fields = {"id2label": dict(enumerate(self._names))}

    def labels(self, split: str) -> np.ndarray:
        lists, locations = self._lists(split), self.task.tables[split].locations
        if self._has_columns:
            return np.array([[int(value) for value in row] for row in lists], np.float32)
        found = np.zeros((len(lists), len(self._names)), np.float32)
        for row, names, location in zip(found, lists, locations, strict=True):
            row[[class_number(self.task, name, self._numbers, location) for name in names]] = 1
        return found

    def keep(self, output: Any) -> jax.Array:
        return (output.logits > 0).astype(jnp.float32)

    def scores(self, labels: np.ndarray, found: Any) -> Scores:
        averages = {
            f"{name} F1": f1_score(labels, np.asarray(found), average=name, zero_division=0)
            for name in ("micro", "macro")
        }
        return {**averages, "exact match": float(np.all(labels == np.asarray(found), axis=1).mean())}

    def estimators(self) -> Mapping[str, BaseEstimator]:
        return {
            "most frequent labels": OneVsRestClassifier(DummyClassifier()),
            "TF-IDF, logistic regression": of_words(OneVsRestClassifier(LogisticRegression(C=30, max_iter=300))),
        }

    def describe(self) -> str:
        return f"{len(self._names)} labels, of which a text has {self.labels('train').sum(axis=1).mean():.1f}"

    def _lists(self, split: str) -> list[list[Any]]:
        table = self.task.tables[split]
        for value, location in zip(table.columns["label"], table.locations, strict=True):
            if self._has_columns:
                if any(str(each) not in ("0", "1", "True", "False") for each in value):
                    raise ValueError(f"{location}: each column of the label is 0 or 1, got {value!r:.60}")
            elif not isinstance(value, list) or any(not isinstance(name, str | int) or name == "" for name in value):
                raise ValueError(f"{location}: label is a list of names or of whole numbers, got {value!r:.60}")
        return table.columns["label"]


class Regression(Problem):
    """A number for each text."""

    # Not the correlation, which is high for numbers of a wrong scale, too.
    score = "mean squared error"
    higher_is_better = False

    def __init__(self, task: TableTask):
        super().__init__(task)
        self.fields = {"id2label": {0: task.config.columns.label}}

    def labels(self, split: str) -> np.ndarray:
        table = self.task.tables[split]
        rows = zip(table.columns["label"], table.locations, strict=True)
        return np.array([_number(value, location) for value, location in rows], np.float32)

    def keep(self, output: Any) -> jax.Array:
        return output.logits[:, 0].astype(jnp.float32)

    def scores(self, labels: np.ndarray, found: Any) -> Scores:
        return {
            "mean squared error": float(mean_squared_error(labels, found)),
            "Pearson": _correlation(labels, found),
            "Spearman": _correlation(rankdata(labels), rankdata(found)),
        }

    def estimators(self) -> Mapping[str, BaseEstimator]:
        return {"mean": DummyRegressor(), "TF-IDF, ridge regression": of_words(Ridge())}

    def describe(self) -> str:
        labels = self.labels("train")
        return f"labels from {labels.min():g} to {labels.max():g}, {labels.mean():.3g} on average"


PROBLEMS: dict[str, type[Problem]] = {
    "single_label_classification": SingleLabel,
    "multi_label_classification": MultiLabel,
    "regression": Regression,
}


def problem_type(option: str, columns: str, values: Sequence[Any]) -> str:
    """Return the problem type: the option, or else what fits the labels.

    Lists or several columns are labels, numbers of which one has a decimal point are numbers, and others classes.

    Args:
      option: The reference's name of a problem type, or "".
      columns: The column of the labels, or several ones separated by commas.
      values: The labels of the training data.

    Raises:
      ValueError: Another option.
    """
    if option and option not in PROBLEMS:
        raise ValueError(
            f"problem_type is one of {', '.join(PROBLEMS)}, or empty to choose by the labels; got {option!r}"
        )
    if option:
        return option
    if "," in columns or any(isinstance(value, list) for value in values):
        return "multi_label_classification"
    if all(_is_number(value) for value in values) and any(_is_fraction(value) for value in values):
        return "regression"
    return "single_label_classification"


def _correlation(first: Any, second: Any) -> float:
    """Return the coefficient of correlation, 0 where all values of one are equal."""
    first, second = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (first, second))
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norms) if norms else 0.0


def _number(value: Any, location: str) -> float:
    if not _is_number(value):
        raise ValueError(f"{location}: label is a number, got {value!r:.60}")
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, str) and not value.strip().lstrip("+-").isdecimal())


def classifiers() -> dict[str, BaseEstimator]:
    """Return the baselines of a class for each text, by name."""
    return {
        "most frequent class": DummyClassifier(),
        "TF-IDF, logistic regression": of_words(LogisticRegression(C=30, max_iter=300)),
    }


def of_words(estimator: BaseEstimator) -> BaseEstimator:
    """Return the estimator of texts by their words and word pairs."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), estimator)


def classification_scores(labels: Any, found: Any) -> Scores:
    """Compute the accuracy, and the mean of the F1 of all classes."""
    return {
        "accuracy": float(accuracy_score(labels, found)),
        "macro F1": float(f1_score(labels, found, average="macro")),
    }


def text_baselines(
    estimators: Mapping[str, BaseEstimator],
    scores: Callable[[Any, Any], Scores],
    train: Sequence[str],
    train_labels: Any,
    test: Sequence[str],
    test_labels: Any,
) -> dict[str, Scores]:
    """Score estimators, trained with at most LINEAR_TEXTS texts."""
    chosen = np.linspace(0, len(train) - 1, min(len(train), LINEAR_TEXTS)).astype(int)
    texts, labels = [train[row] for row in chosen], np.asarray(train_labels)[chosen]
    found = {}
    for name, estimator in estimators.items():
        try:
            estimator.fit(texts, labels)
        except ValueError:  # no words of two letters, or one class only
            continue
        found[name] = scores(test_labels, estimator.predict(test))
    return found
