"""ROUGE (Lin 2004) by Google's rouge-score."""

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

KINDS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def rouge(summaries: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F1 of words, of pairs of words, and of the longest common subsequence, with Porter's stemmer."""
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    scores = [scorer.score(reference, summary) for summary, reference in zip(summaries, references, strict=True)]
    return {name: float(np.mean([score[kind].fmeasure for score in scores])) for kind, name in KINDS.items()}
