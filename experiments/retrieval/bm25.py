"""BM25: the baseline of dense retrieval, and the source of its hard negatives."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import Stemmer

from ..data.retrieval import Passage, Question
from .answers import Answers


class BM25:
    """Lucene's BM25 (k1 = 1.5, b = 0.75) over titles and texts, with English stemming and stop word removal."""

    def __init__(self, passages: Sequence[Passage]):
        # Importing bm25s initialises the devices of JAX, after which jax.distributed.initialize fails.
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs a line per index
        self._tokenize, self._stemmer, self._count = bm25s.tokenize, Stemmer.Stemmer("english"), len(passages)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._index.index(self._words([f"{title} {text}" for title, text in passages]), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> np.ndarray:
        """Return the indices of the top k passages (or all, if fewer), int [Q,k]."""
        k = min(k, self._count)
        found = self._index.retrieve(self._words(queries), k=k, show_progress=False, backend_selection="numpy")
        return found.documents

    def _words(self, texts: Sequence[str]) -> Any:
        return self._tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)


def mine_hard_negatives(
    bm25: BM25, passages: Sequence[Passage], train: list[Question], test: Sequence[Question], pool: int
) -> list[Question]:
    """Add hard negatives to training questions without any: the top `pool` passages that do not contain an answer.

    This is the method of DPR (Karpukhin et al. 2020, section 3.2). Gold passages of test questions are never used.
    """
    missing = [number for number, question in enumerate(train) if not question.negatives]
    if not missing:
        return train
    answers, excluded = Answers(passages), {passage for question in test for passage in question.positives}
    mined = list(train)
    found = bm25.search([train[number].text for number in missing], 5 * pool)
    for number, candidates in zip(missing, found.tolist(), strict=True):
        question = train[number]
        negatives = [
            passage
            for passage in candidates
            if passage not in question.positives and passage not in excluded and not answers.found(question, passage)
        ]
        mined[number] = question._replace(negatives=tuple(negatives[:pool]))
    return mined
