"""A class for each word of a sentence: names of entities, parts of speech."""

from itertools import chain
from typing import Any

import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from ..predict import Predictions
from .common import Scores
from .entities import LabelledWords, encode_words, entity_scores, word_names
from .from_tables import TableTask, class_names, class_number


class TokenClassification(TableTask):
    """Columns tokens and tags, lists of the same length; tags are names or numbers.

    The score is F1 of entities if tags are O, B-type and I-type; else the share of correct words.
    """

    model_class = "AutoModelForTokenClassification"
    replaces_head = True
    score = "accuracy"
    usage = (
        'model.apply({"params": params}, **tokenizer([["A", "sentence"]], is_split_into_words=True, '
        'return_tensors="jax")).logits.argmax(-1)'
    )

    def load_tokenizer(self, **options: Any) -> Tokenizer:
        """Load the tokenizer; one that works on bytes has to separate words by spaces."""
        tokenizer = super().load_tokenizer(**options)
        if "add_prefix_space" in tokenizer.OPTIONS and not options:
            return super().load_tokenizer(add_prefix_space=True)
        return tokenizer

    def fields(self) -> dict[str, Any]:
        for table in self.tables.values():
            rows = zip(table.lists("tokens"), table.lists("tags"), table.locations, strict=True)
            for tokens, tags, location in rows:
                if len(tokens) != len(tags):
                    raise ValueError(f"{location}: each token has a tag; got {len(tokens)} tokens and {len(tags)} tags")
                if wrong := [token for token in tokens if not isinstance(token, str) or not token.strip()]:
                    raise ValueError(f"{location}: tokens are words, got {wrong[0]!r}")
        self._names = class_names(self, "tags", [tag for tags in self.first.columns["tags"] for tag in tags])
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._are_entities = all(name == "O" or name[:2] in ("B-", "I-") for name in self._names)
        if self._are_entities:
            self.score = "F1"  # type: ignore[misc]  # of the class it is the default
        return {"id2label": dict(enumerate(self._names))}

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledWords:
        return encode_words(tokenizer, self.tables[split].lists("tokens"), self._labels(split), self.max_tokens)

    def scores(self, split: str, predicted: Predictions) -> Scores:
        examples = self.dev if split == "validation" else self.test
        assert isinstance(examples, LabelledWords)
        return self._compare(split, word_names(examples, predicted, self._names, self._labels(split)))

    def baselines(self) -> dict[str, Scores]:
        """Score the most frequent tag."""
        counts = np.bincount(list(chain.from_iterable(self._labels("train"))))
        best, split = self._names[int(counts.argmax())], self.test_split
        return {f"always {best}": self._compare(split, [[best] * len(row) for row in self._labels(split)])}

    def describe(self) -> str:
        return f"{super().describe()}; {len(self._names)} tags"

    def _compare(self, split: str, found: list[list[str]]) -> Scores:
        true = [[self._names[number] for number in row] for row in self._labels(split)]
        words = zip(chain.from_iterable(true), chain.from_iterable(found), strict=True)
        accuracy = float(np.mean([a == b for a, b in words]))
        return (entity_scores(true, found) if self._are_entities else {}) | {"accuracy": accuracy}

    def _labels(self, split: str) -> list[list[int]]:
        table = self.tables[split]
        rows = zip(table.columns["tags"], table.locations, strict=True)
        return [[class_number(self, tag, self._numbers, location) for tag in tags] for tags, location in rows]
