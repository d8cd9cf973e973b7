"""What a model answers to many questions, some at a time in one static shape."""

from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

import jaxmodels as jm
from experiments.rag.tables import Readings


def from_documents(
    model, params: dict, retriever: jm.DeviceRetriever, texts: Sequence[str], *, rows: int, question: int, **options
) -> list[str]:
    """RAG's answers, encoder and search included.

    Args:
      question: tokens of a question, at most. options: of `generate`.
    """
    answers = []
    for places in _batches(len(texts), rows, "RAG's answers"):
        batch, ready = retriever.ask(
            [texts[place] for place in places], padding="max_length", truncation=True, max_length=question
        )
        out = jm.generate(model, params, **batch, retriever=ready, **options)
        answers += _texts(retriever.host.generator_tokenizer, out.sequences)
    return answers[: len(texts)]


def from_readings(model, params: dict, tokenizer, table: Readings, *, rows: int, **options) -> list[str]:
    """A generator's answers to what it is given to read."""
    answers = []
    for places in _batches(len(table.ids), rows, "answers"):
        batch = table.batch(places, table.ids.shape[1])
        out = jm.generate(model, params, batch["input_ids"], attention_mask=batch["attention_mask"], **options)
        answers += _texts(tokenizer, out.sequences)
    return answers[: len(table.ids)]


def _batches(count: int, rows: int, what: str) -> Iterator[np.ndarray]:
    """Places in order, the last batch filled up with its own."""
    for first in tqdm(range(0, count, rows), desc=what, unit="batch", mininterval=5):
        yield np.resize(np.arange(first, min(first + rows, count)), rows)


def _texts(tokenizer, sequences) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(np.asarray(sequences), skip_special_tokens=True)]
