"""Tokenized questions and passages, and training batches of them (grain)."""

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

import jaxmodels as jm

from .batches import Rows
from .retrieval import Passage, Question


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts.

    Attributes:
      input_ids: int32 [N,T], padded on the right.
      token_type_ids: int32 [N,T].
      lengths: Number of tokens without padding, int [N].
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    lengths: np.ndarray

    def take(self, indices: np.ndarray | int, width: int | None = None) -> dict[str, np.ndarray]:
        """Return the model inputs for these texts, arrays [*indices.shape, width]."""
        return {"input_ids": self.input_ids[indices, :width], "token_type_ids": self.token_type_ids[indices, :width]}


def tokenize_questions(tokenizer: jm.BertTokenizer, questions: Sequence[Question], length: int) -> Tokens:
    """Tokenize to [CLS] question [SEP], truncated to `length` tokens."""
    return _tokens(tokenizer([question.text for question in questions], **_shape(length)))


def tokenize_passages(tokenizer: jm.BertTokenizer, passages: Sequence[Passage], length: int) -> Tokens:
    """Tokenize to [CLS] title [SEP] text [SEP], truncated to `length` tokens."""
    titles, texts = zip(*passages, strict=True)
    return _tokens(tokenizer(list(titles), list(texts), **_shape(length)))


def training(
    questions: Sequence[Question],
    question_tokens: Tokens,
    passage_tokens: Tokens,
    *,
    negatives: int,
    batch_size: int,
    seed: int,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Iterate endlessly over batches of questions, shuffled differently in every epoch.

    Each question comes with its first positive passage and `negatives` random ones of its hard negatives; if it has
    fewer, some are repeated, and if it has none, passages of other questions are used. Fields: question_* [B,Tq] and
    context_* [B,1+negatives,Tp] for the encoders, and the indices of the passages [B,1+negatives].

    All randomness is a function of the seed. The state of the iterator, the number of the batch, can be saved and
    restored with any `rows`, the rows of each batch that this process loads.

    Raises:
      ValueError: There are no questions.
    """
    if not questions:
        raise ValueError("there are no questions to train on")
    others = sorted({question.positives[0] for question in questions})

    def example(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        question = questions[index]
        pool = question.negatives or [passage for passage in others if passage not in question.positives] or others
        drawn = rng.choice(pool, negatives, replace=len(pool) < negatives)
        passages = np.array([question.positives[0], *drawn], np.int32)
        return {
            **{f"question_{name}": array for name, array in question_tokens.take(index).items()},
            **{f"context_{name}": array for name, array in passage_tokens.take(passages).items()},
            "passages": passages,
        }

    order = grain.MapDataset.range(len(questions)).seed(seed).shuffle().repeat().random_map(example)
    source = grain.MapDataset.source(Rows(order, batch_size, rows))
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def _shape(length: int) -> dict:
    return {"padding": "max_length", "truncation": True, "max_length": length}


def _tokens(encoded: jm.BatchEncoding) -> Tokens:
    return Tokens(encoded["input_ids"], encoded["token_type_ids"], encoded["attention_mask"].sum(axis=1))
