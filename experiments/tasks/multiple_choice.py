"""One of several continuations or answers."""

from typing import Any

from sklearn.metrics import accuracy_score

from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import LabelledTexts
from ..predict import Predictions
from .common import Scores
from .from_tables import TableTask


class MultipleChoice(TableTask):
    """Columns context, choices (a list, or several columns separated by commas), label, and optionally question.

    A choice is read as a pair: the context, and the question followed by the choice. Labels are numbers from 0.
    """

    model_class = "AutoModelForMultipleChoice"
    score = "accuracy"
    usage = (
        'model.apply({"params": params}, jnp.asarray([tokenizer(contexts, choices)["input_ids"]])).logits.argmax(-1)'
    )

    def fields(self) -> dict[str, Any]:
        first = len(self.first.lists("choices")[0])
        for table in self.tables.values():
            rows = zip(table.lists("choices"), table.columns["label"], table.locations, strict=True)
            for choices, label, location in rows:
                if len(choices) != first or not all(isinstance(choice, str) for choice in choices):
                    raise ValueError(f"{location}: choices are {first} texts as in the first row, got {choices!r:.60}")
                if str(label) not in map(str, range(first)):
                    raise ValueError(
                        f"{location}: label is the number of a choice, 0 to {first - 1}, got {label!r:.60}"
                    )
        return {}

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        table = self.tables[split]
        contexts, choices = table.texts("context"), table.lists("choices")
        questions = table.texts("question") if "question" in table.columns else [""] * len(table)
        count = len(choices[0])
        pairs = [
            f"{question} {choice}".strip() for question, row in zip(questions, choices, strict=True) for choice in row
        ]
        encoded = tokenizer(
            [context for context in contexts for _ in range(count)], pairs, truncation=True, max_length=self.max_tokens
        )
        fields = {
            name: [encoded[name][start : start + count] for start in range(0, len(pairs), count)]
            for name in ("input_ids", "token_type_ids")
            if name in encoded
        }
        return LabelledTexts(fields | {"labels": self._labels(split)}, self.config_fields["pad_token_id"])

    def scores(self, split: str, predicted: Predictions) -> Scores:
        return {"accuracy": float(accuracy_score(self._labels(split), predicted.best))}

    def baselines(self) -> dict[str, Scores]:
        return {"chance": {"accuracy": 1 / len(self.tables["train"].lists("choices")[0])}}

    def _labels(self, split: str) -> list[int]:
        return [int(label) for label in self.tables[split].columns["label"]]
