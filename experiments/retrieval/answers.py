"""Top-k retrieval accuracy: by the gold passage, or by any passage that contains an answer."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..data.retrieval import Passage, Question

KS = (1, 5, 20, 100)
GOLD, ANSWER = "gold", "answer"

_WORD = re.compile(r"\w+|[^\w\s]")


class Answers:
    """Tests whether passages contain an answer as consecutive words, without regard to case and accents.

    As in the evaluation of DPR (Karpukhin et al. 2020), titles are not included.
    """

    def __init__(self, passages: Sequence[Passage]):
        self._words = [_words(passage.text) for passage in passages]

    def found(self, question: Question, passage: int) -> bool:
        """Return whether the passage contains one of the answers to the question."""
        return any(_words(answer) in self._words[passage] for answer in question.answers)


def top_k_accuracy(
    found: np.ndarray, questions: Sequence[Question], passages: Sequence[Passage]
) -> dict[str, dict[str, float]]:
    """Compute the share of questions for which one of the top k passages is relevant.

    Args:
      found: Indices of the retrieved passages, best first, int [Q,K].
      questions: The questions.
      passages: All passages.

    Returns:
      {"gold": {"1": share, ...}, "answer": {...}} for k = 1, 5, 20, 100; the second one only if all questions have
      answers. If there are fewer than k passages, all of them are considered.
    """
    gold = np.array(
        [[passage in q.positives for passage in row] for q, row in zip(questions, found.tolist(), strict=True)]
    )
    table = {GOLD: _at(gold)}
    if all(question.answers for question in questions):
        answers = Answers(passages)
        relevant = [
            [answers.found(q, passage) for passage in row] for q, row in zip(questions, found.tolist(), strict=True)
        ]
        table[ANSWER] = _at(np.array(relevant))
    return table


def _at(relevant: np.ndarray) -> dict[str, float]:
    """Return the accuracy for each k, given relevance as bool [Q,K]."""
    return {str(k): float(relevant[:, :k].any(axis=1).mean()) for k in KS}


@lru_cache(maxsize=1 << 16)  # the same answer is searched in a hundred passages
def _words(text: str) -> str:
    """Normalize a text to words between spaces, so that substring search finds consecutive words."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    return f" {' '.join(_WORD.findall(plain))} "
