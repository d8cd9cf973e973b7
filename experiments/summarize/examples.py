"""Requests as LED reads them: the query, which is global, then the document; and the summary as labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

import jaxmodels as jm
from experiments.data.batches import IGNORE
from experiments.data.qmsum import Collection


@dataclass(frozen=True)
class Summaries:
    """Requests as tokens, `<s> query </s> document </s>` and `<s> summary </s>`; an `Examples` of `data.buckets`.

    Attributes:
      queries: ids [<=room] with their <s> and </s>: these are global. documents: ids without special ones.
      owners: int [n], the document of each request.
      labels: ids with <s> and </s>.
      source: tokens that the model reads; a document that has more is cut at its end.
      target: columns of the labels.
    """

    queries: list[np.ndarray]
    documents: list[np.ndarray]
    owners: np.ndarray
    labels: list[np.ndarray]
    source: int
    target: int
    pad: int
    eos: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens that are read of each request, int [n]."""
        whole = [len(q) + len(self.documents[d]) + 1 for q, d in zip(self.queries, self.owners, strict=True)]
        return np.minimum(whole, self.source)

    def batch(self, indices: Sequence[int], length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """input_ids, attention_mask, global_attention_mask [B,length] and labels [B,target], int32."""
        shape = (len(indices), length)
        ids, mask, wide = np.full(shape, self.pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        labels = np.full((len(indices), self.target), IGNORE, np.int32)
        for row, index in enumerate(indices):
            query, document = self.queries[index], self.documents[self.owners[index]]
            read = [*query, *document[: self.source - len(query) - 1], self.eos]
            ids[row, : len(read)], mask[row, : len(read)], wide[row, : len(query)] = read, 1, 1
            labels[row, : len(self.labels[index])] = self.labels[index]
        return {"input_ids": ids, "attention_mask": mask, "global_attention_mask": wide, "labels": labels}

    def some(self, count: int) -> Self:
        """At most so many requests, spread evenly."""
        places = np.linspace(0, len(self.queries) - 1, min(count, len(self.queries))).astype(int)
        queries, labels = ([of[place] for place in places] for of in (self.queries, self.labels))
        return replace(self, queries=queries, labels=labels, owners=self.owners[places])

    def elsewhere(self) -> Self:
        """The same requests, each put to the next document: what a summary's loss owes to its own one."""
        return replace(self, owners=(self.owners + 1) % len(self.documents))


def tokenize(found: Collection, tokenizer: jm.LEDTokenizer, *, query: int, source: int, target: int) -> Summaries:
    """The requests as tokens.

    Args:
      query, source, target: tokens, special ones included, that a query, the query with its document, and a summary
        have at most; what is longer is cut at its end.
    """

    def ids(texts, **options):
        return [np.asarray(row, np.int32) for row in tokenizer(texts, **options)["input_ids"]]

    documents = [found.text(number) for number in range(len(found.documents))]
    return Summaries(
        queries=ids([request.query for request in found.requests], truncation=True, max_length=query),
        documents=ids(documents, add_special_tokens=False),
        owners=np.array([request.document for request in found.requests]),
        labels=ids([request.summary for request in found.requests], truncation=True, max_length=target),
        source=source,
        target=target,
        pad=tokenizer.pad_token_id,
        eos=tokenizer.eos_token_id,
    )
