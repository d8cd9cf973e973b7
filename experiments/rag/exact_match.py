"""Exact match and F1 of answers as SQuAD counts them (Rajpurkar et al. 2016, section 6.1)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """{"exact match": share, "F1": mean}, each answer against the reference that it is nearest to."""
    pairs = list(zip(answers, references, strict=True))
    best = {
        "exact match": [max(normalised(answer) == normalised(r) for r in right) for answer, right in pairs],
        "F1": [max(f1(answer, r) for r in right) for answer, right in pairs],
    }
    return {name: float(np.mean(values)) for name, values in best.items()}


def normalised(text: str) -> str:
    """Without case, ASCII punctuation, English articles and surplus white space."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(answer: str, reference: str) -> float:
    """Of the words of both, counted with repetitions; 0 where they share none."""
    ours, theirs = (Counter(normalised(text).split()) for text in (answer, reference))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0
