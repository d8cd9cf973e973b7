"""Tokenized questions, contexts and answers, and training batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import grain
import numpy as np

import jaxmodels as jm

from ..data.batches import IGNORE
from ..data.retrieval import Question


@dataclass(frozen=True)
class RagExamples:
    """Questions and answers for RAG.

    Attributes:
      input_ids: Questions for the question encoder, int32 [N,T].
      attention_mask: int32 [N,T].
      questions: Questions for the generator, int32 [N,Q]; -1 after the end.
      labels: Answers for the losses of RAG, int32 [N,A]: decoder start token, answer, padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    questions: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray | int) -> dict[str, np.ndarray]:
        """Return arrays [*indices.shape, ...] by name."""
        return {name: getattr(self, name)[indices] for name in ("input_ids", "attention_mask", "questions", "labels")}


@dataclass(frozen=True)
class ReaderExamples:
    """Inputs and answers of a generator alone, as `buckets.Examples`.

    Attributes:
      ids: Input ids, int32 [N,S].
      mask: Attention mask, int32 [N,S].
      labels: Answers, int32 [N,A]; -100 after the end.
    """

    ids: np.ndarray
    mask: np.ndarray
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of input tokens, int [N]."""
        return self.mask.sum(axis=1)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Bucket sizes: half of the longest length, and the longest length."""
        longest = int(self.lengths.max())
        return tuple(sorted({-(-longest // 2), longest}))

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return the inputs of the generator, arrays [B, ...]."""
        return {
            "input_ids": self.ids[indices, :length],
            "attention_mask": self.mask[indices, :length],
            "labels": self.labels[indices],
        }

    def subset(self, count: int) -> Self:
        """Return at most `count` examples, evenly spaced."""
        indices = evenly_spaced(len(self.ids), count)
        return type(self)(self.ids[indices], self.mask[indices], self.labels[indices])


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Return at most `count` evenly spaced indices below `total`."""
    return np.linspace(0, total - 1, min(count, total)).astype(int)


def rag_examples(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int
) -> RagExamples:
    """Tokenize questions to at most `question` tokens, and the first answer of each to at most `answer` tokens."""
    texts = [item.text for item in questions]
    encoded, with_questions = retriever.ask(texts, padding="max_length", truncation=True, max_length=question)
    generator = retriever.host.config.generator
    assert generator is not None and generator.decoder_start_token_id is not None
    start = generator.decoder_start_token_id
    ids, mask = _answers(retriever, questions, answer)
    labels = np.pad(np.where(mask, ids, retriever.pad), ((0, 0), (1, 0)), constant_values=start)
    return RagExamples(encoded["input_ids"], encoded["attention_mask"], np.asarray(with_questions.questions), labels)


def closed_book(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int
) -> ReaderExamples:
    """Create examples with the question alone as input."""
    texts = _normalized_questions(retriever, questions, question)
    tokenizer = retriever.host.generator_tokenizer
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=2 * question)
    return _reader_examples(retriever, encoded["input_ids"], encoded["attention_mask"], questions, answer)


def with_gold_passage(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], *, question: int, answer: int
) -> ReaderExamples:
    """Create examples with the gold passage and the question as input, combined as in RAG."""
    texts, host = _normalized_questions(retriever, questions, question), retriever.host
    documents = [[host.document(item.positives[0])] for item in questions]
    ids, mask = host.postprocess_docs(documents, texts, None, 1)
    return _reader_examples(retriever, ids, mask, questions, answer)


def training(table: RagExamples, *, batch_size: int, seed: int) -> grain.DatasetIterator:
    """Iterate endlessly over batches, shuffled in every epoch; the state of the iterator is its position."""
    order = grain.MapDataset.range(len(table.labels)).seed(seed).shuffle().repeat().map(table.take).batch(batch_size)
    return iter(order.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _reader_examples(
    retriever: jm.DeviceRetriever, ids: np.ndarray, mask: np.ndarray, questions: Sequence[Question], answer: int
) -> ReaderExamples:
    labels, known = _answers(retriever, questions, answer)
    return ReaderExamples(ids, mask, np.where(known, labels, IGNORE).astype(np.int32))


def _normalized_questions(retriever: jm.DeviceRetriever, questions: Sequence[Question], length: int) -> list[str]:
    """Return the questions as RAG passes them to the generator: decoded from the ids of the question encoder."""
    tokenizer = retriever.host.question_encoder_tokenizer
    encoded = tokenizer([item.text for item in questions], truncation=True, max_length=length)
    return tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)


def _answers(
    retriever: jm.DeviceRetriever, questions: Sequence[Question], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize the first answers to ids and mask [N,length]."""
    # The leading space gives the same tokens as in the middle of a passage.
    texts = [" " + item.answers[0] for item in questions]
    tokenizer = retriever.host.generator_tokenizer
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return encoded["input_ids"], encoded["attention_mask"].astype(bool)
