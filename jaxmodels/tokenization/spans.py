"""The best answer spans of one passage, from a reader's logits."""

from typing import NamedTuple

import numpy as np


class DPRSpanPrediction(NamedTuple):
    """An answer that a reader found.

    span_score: the sum of the span's start and end logit. relevance_score: the passage's relevance logit.
    doc_id: the passage's row. start_index, end_index: the span's first and last token in that row.
    text: these tokens decoded.
    """

    span_score: float
    relevance_score: float
    doc_id: int
    start_index: int
    end_index: int
    text: str


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, max_answer_length: int, top_spans: int
) -> list[tuple[int, int]]:
    """Up to `top_spans` spans (first token, last token) of at most `max_answer_length` tokens, best first.

    start_logits, end_logits: [T]. A span's score is the sum of its two logits, in their dtype. A span inside a better
    one, or around it, is left out; one that overlaps it in part is not. Of equal scores the earlier start comes first,
    then the shorter span. Source: transformers 4.37.2, tokenization_dpr.py, `_get_best_spans`.
    """
    # longer than the row is as long as the row, and takes no memory
    max_answer_length = max(1, min(max_answer_length, len(start_logits)))
    starts, extra = np.divmod(np.arange(len(start_logits) * max_answer_length), max_answer_length)
    ends = starts + extra
    inside = ends < len(end_logits)
    starts, ends = starts[inside], ends[inside]
    scores = start_logits[starts] + end_logits[ends]
    chosen = []
    while scores.size and len(chosen) < top_spans:
        best = scores.argmax()  # the first of equals
        start, end = starts[best], ends[best]
        chosen.append((int(start), int(end)))
        nested = (starts >= start) & (ends <= end) | (starts <= start) & (ends >= end)
        starts, ends, scores = starts[~nested], ends[~nested], scores[~nested]
    return chosen
