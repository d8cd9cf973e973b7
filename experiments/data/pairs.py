"""Batches of questions with their passages (grain), and the token tables that they are taken from."""

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

import jaxmodels as jm
from experiments.data.retrieval import Passage, Question


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens.

    Attributes:
      input_ids, token_type_ids: int32 [N,T], padded on the right.
      lengths: int [N], tokens that are no padding.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    lengths: np.ndarray

    def rows(self, indices, width: int | None = None) -> dict[str, np.ndarray]:
        """The model's keywords for these texts, arrays [*indices.shape, width]."""
        return {"input_ids": self.input_ids[indices, :width], "token_type_ids": self.token_type_ids[indices, :width]}


def tokenize_questions(tokenizer: jm.BertTokenizer, questions: Sequence[Question], length: int) -> Tokens:
    """[CLS] question [SEP], cut to `length` tokens."""
    return _tokens(tokenizer([question.text for question in questions], **_shape(length)))


def tokenize_passages(tokenizer: jm.BertTokenizer, passages: Sequence[Passage], length: int) -> Tokens:
    """[CLS] title [SEP] text [SEP], cut to `length` tokens."""
    titles, texts = zip(*passages, strict=True)
    return _tokens(tokenizer(list(titles), list(texts), **_shape(length)))


def training(
    questions: Sequence[Question],
    question_tokens: Tokens,
    passage_tokens: Tokens,
    *,
    negatives: int,
    rows: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> grain.DatasetIterator:
    """Endless batches of rows / processes questions, in another order in every epoch.

    Each comes with its first positive passage and then `negatives` of its hard negatives, drawn anew every time; if it
    has fewer some come twice, and if it has none passages of other questions stand in. Fields: question_*
    [B,Tq] and context_* [B,1+negatives,Tp] for the encoders, passages [B,1+negatives], which ones these are.

    The order and the draws are functions of the seed, and the iterator's state is its position: it can be saved and
    set. Each process reads its own share of every batch.

    Raises:
      ValueError: no questions, or the processes do not divide the rows.
    """
    if not questions:
        raise ValueError("there are no questions to train on")
    if rows % processes:
        raise ValueError(f"batch_size={rows} does not divide among {processes} processes")
    others = sorted({question.positives[0] for question in questions})

    def example(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        question = questions[index]
        pool = question.negatives or [passage for passage in others if passage not in question.positives] or others
        drawn = rng.choice(pool, negatives, replace=len(pool) < negatives)
        passages = np.array([question.positives[0], *drawn], np.int32)
        return {
            **{f"question_{name}": array for name, array in question_tokens.rows(index).items()},
            **{f"context_{name}": array for name, array in passage_tokens.rows(passages).items()},
            "passages": passages,
        }

    order = grain.MapDataset.range(len(questions)).seed(seed).shuffle().repeat().random_map(example)
    mine = order[process::processes].batch(rows // processes)
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def _shape(length: int) -> dict:
    return {"padding": "max_length", "truncation": True, "max_length": length}


def _tokens(encoded: jm.BatchEncoding) -> Tokens:
    return Tokens(encoded["input_ids"], encoded["token_type_ids"], encoded["attention_mask"].sum(axis=1))
