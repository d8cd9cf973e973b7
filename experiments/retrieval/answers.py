"""What counts as found: the passage that a question is about, or any passage that has an answer in it."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from experiments.data.retrieval import Passage, Question

KS = (1, 5, 20, 100)
GOLD, ANSWER = "gold", "answer"

_WORD = re.compile(r"\w+|[^\w\s]")


class Answers:
    """Whether passages contain an answer: its words, one after the other, in lower case and without accents.

    As DPR's evaluation has it (Karpukhin et al. 2020), title not included.
    """

    def __init__(self, passages: Sequence[Passage]):
        self._words = [_words(passage.text) for passage in passages]

    def found(self, question: Question, passage: int) -> bool:
        """Whether one of the question's answers is in that passage."""
        return any(_words(answer) in self._words[passage] for answer in question.answers)


def accuracies(
    found: np.ndarray, questions: Sequence[Question], passages: Sequence[Passage]
) -> dict[str, dict[str, float]]:
    """Share of the questions for which one of the first k passages is right.

    Args:
      found: int [Q,K], for each question places of passages, best first.

    Returns:
      {"gold": {"1": share, ...}, "answer": {...}} for each k of 1, 5, 20, 100; the second one only
      where all questions have answers. With fewer than k passages all of them count as found.
    """
    gold = np.array(
        [[passage in q.positives for passage in row] for q, row in zip(questions, found.tolist(), strict=True)]
    )
    table = {GOLD: _at(gold)}
    if all(question.answers for question in questions):
        answers = Answers(passages)
        right = [
            [answers.found(q, passage) for passage in row] for q, row in zip(questions, found.tolist(), strict=True)
        ]
        table[ANSWER] = _at(np.array(right))
    return table


def _at(right: np.ndarray) -> dict[str, float]:
    return {str(k): float(right[:, :k].any(axis=1).mean()) for k in KS}


@lru_cache(maxsize=1 << 16)  # an answer is looked for in a hundred passages
def _words(text: str) -> str:
    """The words with a space before and behind each, so that one list of words contains another as text does."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    return f" {' '.join(_WORD.findall(plain))} "
