"""Meetings, queries and summaries as token batches for LED."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..data import bpe, qmsum
from ..data.batches import IGNORE
from ..data.bpe import token_id
from ..data.qmsum import Collection


@dataclass(frozen=True)
class Summaries:
    """Requests as tokens, `<s> query </s> document </s>` and `<s> summary </s>`, as `buckets.Examples`.

    Attributes:
      queries: Token ids of each query with <s> and </s>; these tokens are global.
      documents: Token ids of each document, without special tokens.
      document_index: The document of each request, int [n].
      labels: Token ids of each summary, with <s> and </s>.
      source: Number of input tokens; longer documents are truncated.
      target: Number of columns of the labels.
      pad: Id of the padding token.
      eos: Id of </s>.
    """

    queries: list[np.ndarray]
    documents: list[np.ndarray]
    document_index: np.ndarray
    labels: list[np.ndarray]
    source: int
    target: int
    pad: int
    eos: int

    @property
    def lengths(self) -> np.ndarray:
        """Number of input tokens of each request, int [n]."""
        full = [len(q) + len(self.documents[d]) + 1 for q, d in zip(self.queries, self.document_index, strict=True)]
        return np.minimum(full, self.source)

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return input_ids, attention_mask, global_attention_mask [B,length] and labels [B,target], int32."""
        shape = (len(indices), length)
        ids = np.full(shape, self.pad, np.int32)
        mask, global_mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        labels = np.full((len(indices), self.target), IGNORE, np.int32)
        for row, index in enumerate(indices):
            query, document = self.queries[index], self.documents[self.document_index[index]]
            tokens = [*query, *document[: self.source - len(query) - 1], self.eos]
            ids[row, : len(tokens)], mask[row, : len(tokens)], global_mask[row, : len(query)] = tokens, 1, 1
            labels[row, : len(self.labels[index])] = self.labels[index]
        return {"input_ids": ids, "attention_mask": mask, "global_attention_mask": global_mask, "labels": labels}

    def subset(self, count: int) -> Self:
        """Return at most `count` requests, evenly spaced."""
        chosen = np.linspace(0, len(self.queries) - 1, min(count, len(self.queries))).astype(int)
        queries, labels = ([values[index] for index in chosen] for values in (self.queries, self.labels))
        return replace(self, queries=queries, labels=labels, document_index=self.document_index[chosen])

    def with_other_documents(self) -> Self:
        """Return the same requests with other documents, to measure how much the loss depends on the right one."""
        return replace(self, document_index=(self.document_index + 1) % len(self.documents))


def tokenize(found: Collection, tokenizer: jm.LEDTokenizer, *, query: int, source: int, target: int) -> Summaries:
    """Tokenize requests; longer texts are truncated.

    Args:
      found: The requests.
      tokenizer: The tokenizer.
      query: Maximum number of tokens of a query, including special tokens.
      source: Maximum number of tokens of query and document.
      target: Maximum number of tokens of a summary.
    """

    def ids(texts: list[str], **options: Any) -> list[np.ndarray]:
        return [np.asarray(row, np.int32) for row in tokenizer(texts, **options)["input_ids"]]

    documents = [found.text(number) for number in range(len(found.documents))]
    return Summaries(
        queries=ids([request.query for request in found.requests], truncation=True, max_length=query),
        documents=ids(documents, add_special_tokens=False),
        document_index=np.array([request.document for request in found.requests]),
        labels=ids([request.summary for request in found.requests], truncation=True, max_length=target),
        source=source,
        target=target,
        pad=token_id(tokenizer, "pad"),
        eos=token_id(tokenizer, "eos"),
    )


LED = bpe.Family(jm.LEDTokenizer, bpe.ROBERTA.special)


@dataclass(frozen=True)
class Data:
    """Training and test requests, and requests about another type of documents, for testing only."""

    train: Collection
    test: Collection
    transfer: Collection
    tokenizer: jm.LEDTokenizer
    train_tokens: Summaries
    test_tokens: Summaries
    transfer_tokens: Summaries


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """Load the data of a config, in each process; if a new tokenizer is trained, the first process does it."""
    root, lengths = Path(config.data.path), config.lengths
    train, test = (qmsum.read(root / name) for name in (config.data.train, config.data.test))
    test = test.subset(config.test_requests)
    transfer = qmsum.read_documents(Path(config.data.transfer), config.data.transfer_query)
    source = _tokenizer(config, train, folder)
    # Treat special tokens in documents as plain text, and do not limit their length.
    encoder = jm.load_tokenizer(source, cls=jm.LEDTokenizer, split_special_tokens=True, model_max_length=None)
    tokens = partial(tokenize, tokenizer=encoder, query=lengths.query, source=lengths.source, target=lengths.summary)
    tokenizer = jm.load_tokenizer(source, cls=jm.LEDTokenizer)
    return Data(train, test, transfer, tokenizer, tokens(train), tokens(test), tokens(transfer))


def _tokenizer(config: FrozenConfigDict, train: Collection, folder: Path) -> Path:
    """Return the folder of the tokenizer: tokenizer.path, or that of one trained on the training data."""
    source = Path(config.tokenizer.path or folder / "tokenizer")
    if jax.process_index() == 0 and not config.tokenizer.path and not bpe.is_saved(source):
        texts = [train.text(number) for number in range(len(train.documents))]
        texts += [text for request in train.requests for text in (request.query, request.summary)]
        trained = bpe.train(texts, config.tokenizer.vocab_size, LED)
        bpe.save(trained, source, config.lengths.source, LED)
    multihost_utils.sync_global_devices("tokenizer")
    return source


def led_config(config: FrozenConfigDict, tokenizer: jm.LEDTokenizer) -> dict:
    """Return the fields of LED's config, including those that depend on the data."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}
    return {
        **config.model,
        **special,
        "vocab_size": len(tokenizer),
        "decoder_start_token_id": tokenizer.eos_token_id,
        "max_encoder_position_embeddings": config.lengths.source,
        "max_decoder_position_embeddings": config.lengths.summary,
    }
