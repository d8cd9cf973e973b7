"""Answers as spans of a context, by the rules of SQuAD (Rajpurkar et al. 2016, 2018)."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxmodels.inference.answers import Context, answers_of_windows
from jaxmodels.tokenization import BatchEncoding
from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import IGNORED, LabelledTexts
from ..predict import Batch, Predictions
from ..rag.answers import normalize_answer
from ..rag.answers import scores as answer_scores
from .common import Scores
from .from_tables import TableTask, labelled


class QuestionAnswering(TableTask):
    """Columns question, context and answers: {"text": [...], "answer_start": [...]}, empty lists for no answer.

    Contexts that are too long are read in windows that overlap by `stride` tokens. A window without the answer has the
    first token as its answer, which is that for "no answer" too (version 2 of SQuAD), if some question has none.
    """

    model_class = "AutoModelForQuestionAnswering"
    score = "F1"
    usage = 'jm.answer(model, params, tokenizer, ["Who ran?"], ["Ada ran."])'

    def fields(self) -> dict[str, Any]:
        for table in self.tables.values():
            rows = zip(table.texts("context"), table.columns["answers"], table.locations, strict=True)
            for context, answers, location in rows:
                _check(context, answers, location)
        self._no_answer = any(
            not answers["text"] for table in self.tables.values() for answers in table.columns["answers"]
        )
        return {}

    def weight(self, batch: Batch) -> jax.Array:
        return (batch["start_positions"] != IGNORED["start_positions"]).sum()

    def keep(self, output: Any) -> Any:
        return output.start_logits, output.end_logits

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        encoded, answers = self._windows(split, tokenizer), self.tables[split].columns["answers"]
        spans = []
        for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
            spans.append(_tokens_of(answers[row], encoded, window) if answers[row]["text"] else (0, 0))
        starts, ends = zip(*spans, strict=True)
        labels = {"start_positions": starts, "end_positions": ends}
        return labelled(encoded, labels, self.config_fields["pad_token_id"])

    def scores(self, split: str, predicted: Predictions) -> Scores:
        table = self.tables[split]
        contexts = [Context(row, 0, text) for row, text in enumerate(table.texts("context"))]
        found = answers_of_windows(
            predicted.best,
            self._windows(split, self.tokenizer),
            contexts,
            len(contexts),
            top_k=1,
            max_answer_length=self.config.max_answer_tokens,
            no_answer=self._no_answer,
        )
        texts = [answers[0].text if answers else "" for answers in found]
        return squad_scores(texts, [answers["text"] for answers in table.columns["answers"]])

    def baselines(self) -> dict[str, Scores]:
        """Score the first words of the contexts, as many as answers have on average; or no answer, if it is one."""
        table, train = self.tables[self.test_split], self.tables["train"]
        texts = [text for answers in train.columns["answers"] for text in answers["text"]]
        words = max(round(np.mean([len(text.split()) for text in texts])), 1) if texts else 1
        references = [answers["text"] for answers in table.columns["answers"]]
        first = [" ".join(context.split()[:words]) for context in table.texts("context")]
        found = {f"first {words} words": squad_scores(first, references)}
        if self._no_answer:
            found["no answer"] = squad_scores([""] * len(references), references)
        return found

    def _windows(self, split: str, tokenizer: Tokenizer) -> BatchEncoding:
        table = self.tables[split]
        return tokenizer(
            [question.strip() for question in table.texts("question")],
            table.texts("context"),
            truncation="only_second",
            max_length=self.max_tokens,
            stride=self.config.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )


def squad_scores(found: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Compute exact match and F1 with the closest reference; a question without references has "" as its only one.

    As in the official script of version 2, the words of an empty text have F1 1 with an empty text, and else 0.
    """
    pairs = list(zip(found, references, strict=True))
    answered = [(text, known) for text, known in pairs if known]
    right = [float(not normalize_answer(text)) for text, known in pairs if not known]
    totals = {"F1": sum(right), "exact match": sum(right)}
    if answered:
        texts, known = zip(*answered, strict=True)
        totals = {name: total + answer_scores(texts, known)[name] * len(texts) for name, total in totals.items()}
    return {name: total / len(pairs) for name, total in totals.items()}


def _check(context: str, answers: Any, location: str) -> None:
    """Raise ValueError unless the answers are lists of texts and of their places in the context."""
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
        raise ValueError(f'{location}: answers are {{"text": [...], "answer_start": [...]}}, got {answers!r:.60}')
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(f"{location}: each answer has a text and an answer_start, got {answers!r:.60}")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(start, int) or context[start : start + len(text)] != text:
            raise ValueError(
                f"{location}: the context does not have the answer {text!r:.60} at character {start!r:.20}"
            )


def _tokens_of(answers: dict[str, list], encoded: BatchEncoding, window: int) -> tuple[int, int]:
    """Return the first and the last token of the first answer in a window; (0, 0) if it is not inside."""
    begin = answers["answer_start"][0]
    end = begin + len(answers["text"][0])
    offsets = encoded["offset_mapping"][window]
    inside = [token for token, part in enumerate(encoded.sequence_ids(window)) if part == 1]
    if not inside or offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
        return 0, 0
    first = max(token for token in inside if offsets[token][0] <= begin)
    last = min(token for token in inside if offsets[token][1] >= end)
    return first, last
