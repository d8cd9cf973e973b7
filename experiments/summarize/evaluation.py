"""Generated summaries, extractive baselines, and ROUGE scores."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import FrozenConfigDict
from rouge_score.rouge_scorer import RougeScorer
from tqdm import tqdm

import jaxmodels as jm

from ..data.qmsum import Collection
from ..data.retrieval import Passage
from ..retrieval.bm25 import BM25
from .data import Summaries


def extractive_baselines(train: Collection, test: Collection) -> dict[str, list[str]]:
    """Return baseline summaries of all test requests, by name of the baseline.

    The first two have the average number of words of a training summary: the beginning of the document, and the turns
    that BM25 retrieves for the query, best first. The last one is the training summary with the most similar query: it
    has the style of a summary, but is about another meeting.
    """
    words = round(np.mean([len(request.summary.split()) for request in train.requests]))
    queries = BM25([Passage("", request.query) for request in train.requests])
    nearest = queries.search([request.query for request in test.requests], 1)[:, 0]
    return {
        f"first {words} words": [
            _first(words, (turn.text for turn in test.documents[request.document])) for request in test.requests
        ],
        f"{words} words of BM25's turns": _matching(test, words),
        "summary of a similar query": [train.requests[index].summary for index in nearest],
    }


def _matching(test: Collection, words: int) -> list[str]:
    """Return the first words of the turns that BM25 retrieves for each request."""
    by_document = [BM25([Passage(*turn) for turn in document]) for document in test.documents]
    found = []
    for number, query, _ in test.requests:
        document = test.documents[number]
        best = by_document[number].search([query], len(document))[0]
        found.append(_first(words, (document[turn].text for turn in best)))
    return found


def _first(words: int, texts: Iterable[str]) -> str:
    """Return the first `words` words of the texts."""
    found: list[str] = []
    for text in texts:
        found += text.split()[: words - len(found)]
        if len(found) == words:
            break
    return " ".join(found)


def generate_summaries(
    model: jm.LEDForConditionalGeneration,
    params: dict,
    tokenizer: jm.LEDTokenizer,
    examples: Summaries,
    config: FrozenConfigDict,
) -> list[str]:
    """Generate a summary for each request by greedy decoding, config.generate_rows at a time."""
    batch_size = config.generate_rows
    texts: list[str] = []
    for first in tqdm(range(0, len(examples.queries), batch_size), desc="summaries", unit="batch", mininterval=5):
        indices = np.arange(first, min(first + batch_size, len(examples.queries)))
        # Repeating requests pads the last batch to the shape of the others.
        batch: dict[str, Any] = examples.batch(np.resize(indices, batch_size), examples.source)
        del batch["labels"]
        out = jm.generate(
            model, params, **batch, max_global_tokens=config.lengths.query, max_new_tokens=examples.target - 1
        )
        texts += tokenizer.batch_decode(np.asarray(out.sequences)[: len(indices)], skip_special_tokens=True)
    return [text.strip() for text in texts]


METRICS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def rouge_scores(summaries: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute the mean F1 of words, word pairs and longest common subsequences (ROUGE, Lin 2004), with stemming."""
    scorer = RougeScorer(list(METRICS), use_stemmer=True)
    scores = [scorer.score(reference, summary) for summary, reference in zip(summaries, references, strict=True)]
    return {name: float(np.mean([score[key].fmeasure for score in scores])) for key, name in METRICS.items()}
