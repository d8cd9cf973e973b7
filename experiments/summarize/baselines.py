"""What a summariser has to beat: the beginning of the text, the turns that match the query, and another summary."""

from collections.abc import Iterable

import numpy as np

from experiments.data.qmsum import Collection
from experiments.data.retrieval import Passage
from experiments.retrieval.bm25 import BM25


def extracts(train: Collection, test: Collection) -> dict[str, list[str]]:
    """Summaries of all test requests by name, none of which has seen the reference.

    The first two take as many words as a training summary has on average: of the document's beginning, and of the
    turns that BM25 finds for the query, best first. The last is the training summary whose query is most like this one,
    of another meeting: it knows how summaries are written, and nothing of the document.
    """
    words = round(np.mean([len(request.summary.split()) for request in train.requests]))
    asked = BM25([Passage("", request.query) for request in train.requests])
    nearest = asked.search([request.query for request in test.requests], 1)[:, 0]
    return {
        f"first {words} words": [
            _first(words, (turn.text for turn in test.documents[request.document])) for request in test.requests
        ],
        f"{words} words of BM25's turns": _matching(test, words),
        "summary of a similar query": [train.requests[place].summary for place in nearest],
    }


def _matching(test: Collection, words: int) -> list[str]:
    by_document = [BM25([Passage(*turn) for turn in document]) for document in test.documents]
    found = []
    for number, query, _ in test.requests:
        document = test.documents[number]
        best = by_document[number].search([query], len(document))[0]
        found.append(_first(words, (document[turn].text for turn in best)))
    return found


def _first(words: int, texts: Iterable[str]) -> str:
    chosen: list[str] = []
    for text in texts:
        chosen += text.split()[: words - len(chosen)]
        if len(chosen) == words:
            break
    return " ".join(chosen)
