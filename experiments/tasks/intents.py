"""What a text asks for, as one label per text: BANKING77."""

from pathlib import Path

from ml_collections import FrozenConfigDict
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

import jaxmodels as jm
from experiments.data import banking
from experiments.data.corpus import held_out
from experiments.data.labelled import LabelledTexts
from experiments.predict import Predicted
from experiments.tasks.common import Scores, Task, longest, task_tokenizer, tokenizer_facts


class Intents(Task):
    """A category for each text. BANKING77 has no dev set: `data.held_out` of the training texts are taken for it."""

    model_class = jm.RobertaPreLayerNormForSequenceClassification
    score = "accuracy"

    def __init__(self, config: FrozenConfigDict, folder: Path):
        root = Path(config.data.path)
        self._categories = banking.categories(root)
        everything, fraction = banking.read(root, "train"), config.data.held_out
        self._examples = {
            "train": [example for example in everything if not held_out(example.text, fraction)],
            "dev": [example for example in everything if held_out(example.text, fraction)],
            "test": banking.read(root, "test"),
        }
        for split, examples in self._examples.items():
            if not examples:
                raise ValueError(f"data.held_out={fraction} leaves no example for {split}")
        self._longest = longest(config)
        self.tokenizer = task_tokenizer(config, folder, lambda: self._texts("train"))
        self.train, self.dev, self.test = (self._encode(split, self.tokenizer) for split in self._examples)
        self.facts = tokenizer_facts(self.tokenizer) | {
            "id2label": dict(enumerate(self._categories)),
            "problem_type": "single_label_classification",
        }

    def dev_scores(self, predicted: Predicted) -> Scores:
        return self._scores("dev", predicted.best)

    def test_scores(self, predicted: Predicted) -> Scores:
        return self._scores("test", predicted.best)

    def baselines(self) -> dict[str, Scores]:
        """The most frequent category for all; and a linear classifier of words and pairs of words."""
        linear = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30, max_iter=300)
        )
        others = {"most frequent category": DummyClassifier(), "TF-IDF, logistic regression": linear}
        scores = {}
        for name, classifier in others.items():
            classifier.fit(self._texts("train"), self._labels("train"))
            scores[name] = self._scores("test", classifier.predict(self._texts("test")))
        return scores

    def describe(self) -> str:
        sizes = ", ".join(f"{split}: {len(examples):,} texts" for split, examples in self._examples.items())
        return f"{sizes}; {len(self._categories)} categories"

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        return self._encode("test", tokenizer)

    def _encode(self, split: str, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        ids = tokenizer(self._texts(split), truncation=True, max_length=self._longest)["input_ids"]
        return LabelledTexts([list(row) for row in ids], self._labels(split), tokenizer.pad_token_id)

    def _texts(self, split: str) -> list[str]:
        return [example.text for example in self._examples[split]]

    def _labels(self, split: str) -> list[int]:
        return [self._categories.index(example.category) for example in self._examples[split]]

    def _scores(self, split: str, found) -> Scores:
        labels = self._labels(split)
        return {
            "accuracy": float(accuracy_score(labels, found)),
            "macro F1": float(f1_score(labels, found, average="macro")),
        }
