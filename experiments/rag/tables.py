"""Questions, contexts and answers as arrays of tokens, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import grain
import numpy as np

import jaxmodels as jm
from experiments.data.batches import IGNORE
from experiments.data.retrieval import Question


@dataclass(frozen=True)
class Asked:
    """Questions for RAG.

    Attributes:
      input_ids, attention_mask: int32 [N,T], of the question encoder.
      questions: int32 [N,Q], as the generator reads them; -1 after the end.
      labels: int32 [N,A], answers as RAG's losses take them: the decoder's start, the answer, padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    questions: np.ndarray
    labels: np.ndarray

    def rows(self, indices) -> dict[str, np.ndarray]:
        """Arrays [*indices.shape, ...] by name."""
        return {name: getattr(self, name)[indices] for name in ("input_ids", "attention_mask", "questions", "labels")}


@dataclass(frozen=True)
class Readings:
    """What a generator alone reads and answers; an `Examples` of `data.buckets`.

    Attributes:
      ids, mask: int32 [N,S]. labels: int32 [N,A], -100 after the end.
    """

    ids: np.ndarray
    mask: np.ndarray
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens that are read, int [N]."""
        return self.mask.sum(axis=1)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Half of the longest length, and all of it."""
        longest = int(self.lengths.max())
        return tuple(sorted({-(-longest // 2), longest}))

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """The generator's keywords, arrays [B, ...]."""
        return {
            "input_ids": self.ids[indices, :length],
            "attention_mask": self.mask[indices, :length],
            "labels": self.labels[indices],
        }

    def some(self, count: int) -> Self:
        """At most so many, spread evenly."""
        places = spread(len(self.ids), count)
        return type(self)(self.ids[places], self.mask[places], self.labels[places])


def spread(of: int, count: int) -> np.ndarray:
    """At most `count` places among so many, evenly."""
    return np.linspace(0, of - 1, min(count, of)).astype(int)


def asked(retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int) -> Asked:
    """Questions of at most `question` tokens, each with its first answer of at most `answer` tokens."""
    texts = [one.text for one in questions]
    encoded, ready = retriever.ask(texts, padding="max_length", truncation=True, max_length=question)
    start = retriever.host.config.generator.decoder_start_token_id
    ids, mask = _answers(retriever, questions, answer)
    labels = np.pad(np.where(mask, ids, retriever.pad), ((0, 0), (1, 0)), constant_values=start)
    return Asked(encoded["input_ids"], encoded["attention_mask"], np.asarray(ready.questions), labels)


def closed_book(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int
) -> Readings:
    """The question alone."""
    texts = _seen(retriever, questions, question)
    tokenizer = retriever.host.generator_tokenizer
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=2 * question)
    return _readings(retriever, encoded["input_ids"], encoded["attention_mask"], questions, answer)


def own_passage(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int
) -> Readings:
    """Each question after the passage that it is about, put together as RAG does it."""
    texts, host = _seen(retriever, questions, question), retriever.host
    documents = [[host.document(one.positives[0])] for one in questions]
    ids, mask = host.postprocess_docs(documents, texts, None, 1)
    return _readings(retriever, ids, mask, questions, answer)


def training(table: Asked, *, rows: int, seed: int) -> grain.DatasetIterator:
    """Endless batches of so many questions, in another order in every epoch; the iterator's state is its position."""
    order = grain.MapDataset.range(len(table.labels)).seed(seed).shuffle().repeat().map(table.rows).batch(rows)
    return iter(order.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _readings(retriever, ids, mask, questions, answer: int) -> Readings:
    labels, known = _answers(retriever, questions, answer)
    return Readings(ids, mask, np.where(known, labels, IGNORE).astype(np.int32))


def _seen(retriever: jm.DeviceRetriever, questions: Sequence[Question], length: int) -> list[str]:
    """The questions as RAG passes them on: what the question encoder's ids say, lower-cased perhaps."""
    tokenizer = retriever.host.question_encoder_tokenizer
    encoded = tokenizer([one.text for one in questions], truncation=True, max_length=length)
    return tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)


def _answers(retriever: jm.DeviceRetriever, questions: Sequence[Question], length: int):
    """Ids and mask [N,length]. After a space, as in the middle of a passage: so they have the same tokens there."""
    texts = [" " + one.answers[0] for one in questions]
    tokenizer = retriever.host.generator_tokenizer
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return encoded["input_ids"], encoded["attention_mask"].astype(bool)
