"""BM25: what dense retrieval is compared with, and where its hard negatives come from."""

import logging
from collections.abc import Sequence

import numpy as np
import Stemmer

from experiments.data.retrieval import Passage, Question
from experiments.retrieval.answers import Answers


class BM25:
    """Lucene's BM25 (k1 1.5, b 0.75) over titles and texts, with English stemming and without English stop words."""

    def __init__(self, passages: Sequence[Passage]):
        # On import bm25s asks JAX for its devices, and after that jax.distributed.initialize is refused.
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # a line per index
        self._tokenize, self._stemmer, self._count = bm25s.tokenize, Stemmer.Stemmer("english"), len(passages)
        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._index.index(self._words([f"{title} {text}" for title, text in passages]), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> np.ndarray:
        """Places of the k best passages, or of all if they are fewer, int [Q,k]."""
        k = min(k, self._count)
        found = self._index.retrieve(self._words(queries), k=k, show_progress=False, backend_selection="numpy")
        return found.documents

    def _words(self, texts: Sequence[str]):
        return self._tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)


def mine(
    bm25: BM25, passages: Sequence[Passage], train: list[Question], test: Sequence[Question], pool: int
) -> list[Question]:
    """The training questions, with hard negatives where they had none: the `pool` best passages without the answer.

    As DPR does it (Karpukhin et al. 2020, section 3.2). The passages of test questions are never among them.
    """
    lacking = [number for number, question in enumerate(train) if not question.negatives]
    if not lacking:
        return train
    answers, hidden = Answers(passages), {passage for question in test for passage in question.positives}
    mined = list(train)
    found = bm25.search([train[number].text for number in lacking], 5 * pool)
    for number, candidates in zip(lacking, found.tolist(), strict=True):
        question = train[number]
        wrong = [
            passage
            for passage in candidates
            if passage not in question.positives and passage not in hidden and not answers.found(question, passage)
        ]
        mined[number] = question._replace(negatives=tuple(wrong[:pool]))
    return mined
