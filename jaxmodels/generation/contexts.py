"""The documents of a call to RAG: given, found on the host before the loop, or to be found inside its program."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import check_mask, check_numbers
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.prompts import fill_batch, token_ids
from jaxmodels.messages import brief

# What a call may say beside the options.
INPUTS = ("context_input_ids", "context_attention_mask", "doc_scores", "retriever", "n_docs")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Contexts:
    """Documents of B questions, put together with them.

    Attributes:
      ids, mask: int32 [B*n,S]. doc_scores: float32 [B,n].
      question, question_mask: int32 [B,T], where the documents are still to be found, and `retriever`, which does that
        (a pytree); then every question is wanted `copies` times.
    """

    ids: Any = None
    mask: Any = None
    doc_scores: Any = None
    question: Any = None
    question_mask: Any = None
    retriever: Any = None
    copies: int = dataclasses.field(default=1, metadata={"static": True})

    def found(self, model: Any, params: dict, n_docs: int) -> Self:
        """With ids, mask and scores."""
        if self.question is None:
            return self
        found = model.apply(
            {"params": params},
            self.question,
            attention_mask=self.question_mask,
            retriever=self.retriever,
            n_docs=n_docs,
            method="retrieve",
        )
        return type(self)(*found)._repeated(self.copies)

    def filled(self, copies: int = 1) -> Self:
        """As arrays of the device, up to the next bucket of questions, with every question `copies` times."""
        if self.question is not None:
            question, mask = (jnp.asarray(fill_batch(array)) for array in (self.question, self.question_mask))
            return dataclasses.replace(self, question=question, question_mask=mask, copies=copies)
        n = self.doc_scores.shape[1]

        def placed(array: np.ndarray) -> jax.Array:
            rows = fill_batch(array.reshape(-1, n * array.shape[1]))
            return jnp.asarray(rows.reshape(-1, array.shape[1]))

        found = type(self)(placed(self.ids), placed(self.mask), jnp.asarray(fill_batch(self.doc_scores)))
        return found._repeated(copies)

    def _repeated(self, copies: int) -> Self:
        def repeat(array, rows: int):
            array = jnp.repeat(array.reshape(-1, rows, array.shape[-1]), copies, axis=0)
            return array.reshape(-1, array.shape[-1])

        n = self.doc_scores.shape[1]
        return type(self)(repeat(self.ids, n), repeat(self.mask, n), repeat(self.doc_scores, 1))


def contexts_of(
    model: Any, params: dict, input_ids, attention_mask, further: Mapping[str, Any]
) -> tuple[Contexts, int, int]:
    """The documents of a call, padded to a bucket on the host where they are known; n_docs; and how many questions.

    Raises:
      ValueError: neither documents nor a retriever, or shapes that do not fit.
    """
    n_docs = _count("n_docs", further.get("n_docs"), model.config.n_docs)
    ids, mask, scores = (further.get(name) for name in INPUTS[:3])
    retriever = further.get("retriever")
    if ids is None:
        if retriever is None or input_ids is None:
            raise ValueError(
                "documents are needed: context_input_ids, context_attention_mask and doc_scores; or input_ids and a "
                "retriever that finds them"
            )
        question, question_mask = _question(model, input_ids, attention_mask)
        waiting = Contexts(question=question, question_mask=question_mask, retriever=retriever)
        if not jax.tree_util.all_leaves([retriever]):  # a pytree: it searches inside the program
            return waiting, n_docs, len(question)
        found = model.apply(
            {"params": params},
            jnp.asarray(question),
            attention_mask=jnp.asarray(question_mask),
            retriever=retriever,
            n_docs=n_docs,
            method="retrieve",
        )
        ids, mask, scores = found
    if mask is None or scores is None:
        absent = "context_attention_mask" if mask is None else "doc_scores"
        raise ValueError(f"context_input_ids come with context_attention_mask and doc_scores; {absent} is missing")
    check_numbers("doc_scores", scores)
    check_mask("context_attention_mask", mask)
    scores = np.asarray(scores, np.float32)
    ids = token_ids("context_input_ids", ids, model.config.vocab_size)
    mask = np.asarray(mask).astype(np.int32)
    if scores.ndim != 2 or scores.shape[1] != n_docs:
        raise ValueError(f"doc_scores has shape [B,n_docs] with n_docs={n_docs}, got {scores.shape}")
    if ids.shape[0] != scores.size or mask.shape != ids.shape:
        raise ValueError(
            f"context_input_ids and context_attention_mask have a row for each of {n_docs} documents of "
            f"{scores.shape[0]} questions, {scores.size} in all; got {ids.shape} and {mask.shape}"
        )
    pad = model.config.generator.pad_token_id
    ids, mask = _cut(ids, mask, pad)
    most = min(max(ids.shape[1], model.config.max_combined_length), model.generator_model.max_source_tokens)
    # Finer than prompts: the encoder reads every column of every document.
    width = max(ids.shape[1], min(bucket(ids.shape[1], steps=4), most))
    right = ((0, 0), (0, width - ids.shape[1]))
    contexts = Contexts(np.pad(ids, right, constant_values=pad), np.pad(mask, right), scores)
    return contexts, n_docs, len(scores)


def _count(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is an int of at least 1, got {brief(value)}")
    return int(value)


def _cut(ids: np.ndarray, mask: np.ndarray, pad: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Without the last columns that are padding everywhere: a retriever pads to its longest, and all of it is read."""
    used = np.flatnonzero(((mask != 0) | (ids != pad)).any(axis=0))
    length = used[-1] + 1 if len(used) else 1
    return ids[:, :length], mask[:, :length]


def _question(model, input_ids, attention_mask) -> tuple[np.ndarray, np.ndarray]:
    """Questions in the question encoder's ids, padded to a bucket on the right."""
    encoder = model.config.question_encoder
    ids = token_ids("input_ids", input_ids, encoder.vocab_size)
    if attention_mask is not None:
        check_mask("attention_mask", attention_mask)
    mask = (ids != encoder.pad_token_id) if attention_mask is None else np.asarray(attention_mask)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask has the shape of input_ids, {ids.shape}; got {mask.shape}")
    width = max(ids.shape[1], min(bucket(ids.shape[1]), encoder.max_position_embeddings))
    right = ((0, 0), (0, width - ids.shape[1]))
    fill = encoder.pad_token_id or 0
    return np.pad(ids, right, constant_values=fill), np.pad(mask.astype(np.int32), right)
