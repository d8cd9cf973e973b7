"""Answers to many questions in batches of one static shape, and their exact match and F1 scores."""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from tqdm import tqdm

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag.model import RagPreTrainedModel
from jaxmodels.tokenization.base import Tokenizer

from .tables import ReaderExamples


def answer_with_retrieval(
    model: RagPreTrainedModel,
    params: dict,
    retriever: jm.DeviceRetriever,
    texts: Sequence[str],
    *,
    batch_size: int,
    question: int,
    num_beams: int,
    max_new_tokens: int,
) -> list[str]:
    """Generate answers with RAG, including question encoding and search.

    Args:
      model: The RAG model.
      params: Its parameters.
      retriever: The retriever.
      texts: The questions.
      batch_size: Number of questions per batch.
      question: Maximum number of tokens in a question.
      num_beams: Option of `generate`.
      max_new_tokens: Option of `generate`.
    """
    answers: list[str] = []
    for indices in _batches(len(texts), batch_size, "answers of RAG"):
        batch, ready = retriever.ask(
            [texts[index] for index in indices], padding="max_length", truncation=True, max_length=question
        )
        out = jm.generate(model, params, **batch, retriever=ready, num_beams=num_beams, max_new_tokens=max_new_tokens)
        assert out.sequences is not None
        answers += _texts(retriever.host.generator_tokenizer, out.sequences)
    return answers[: len(texts)]


def answer_from_context(
    model: Model,
    params: dict,
    tokenizer: Tokenizer,
    table: ReaderExamples,
    *,
    batch_size: int,
    num_beams: int,
    max_new_tokens: int,
) -> list[str]:
    """Generate answers with a generator alone, from its inputs in `table`."""
    answers: list[str] = []
    for indices in _batches(len(table.ids), batch_size, "answers"):
        batch = table.batch(indices, table.ids.shape[1])
        out = jm.generate(
            model,
            params,
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
        )
        assert out.sequences is not None
        answers += _texts(tokenizer, out.sequences)
    return answers[: len(table.ids)]


def _batches(count: int, batch_size: int, what: str) -> Iterator[np.ndarray]:
    """Yield the indices of each batch in order; the last batch is padded by repeating its indices."""
    for first in tqdm(range(0, count, batch_size), desc=what, unit="batch", mininterval=5):
        yield np.resize(np.arange(first, min(first + batch_size, count)), batch_size)


def _texts(tokenizer: Tokenizer, sequences: jax.Array) -> list[str]:
    """Decode generated sequences."""
    return [text.strip() for text in tokenizer.batch_decode(np.asarray(sequences), skip_special_tokens=True)]


_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute {"exact match": share, "F1": mean} with the closest reference of each answer.

    The metrics are those of SQuAD (Rajpurkar et al. 2016, section 6.1).
    """
    pairs = list(zip(answers, references, strict=True))
    best: dict[str, list] = {
        "exact match": [
            max(normalize_answer(answer) == normalize_answer(r) for r in correct) for answer, correct in pairs
        ],
        "F1": [max(f1(answer, r) for r in correct) for answer, correct in pairs],
    }
    return {name: float(np.mean(values)) for name, values in best.items()}


def normalize_answer(text: str) -> str:
    """Remove case, ASCII punctuation, English articles and extra white space."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(answer: str, reference: str) -> float:
    """Compute F1 of the words of both texts, with multiplicity; 0 if they have none in common."""
    first, second = (Counter(normalize_answer(text).split()) for text in (answer, reference))
    common = (first & second).total()
    return 2 * common / (first.total() + second.total()) if common else 0.0
