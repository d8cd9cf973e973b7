"""Contrastive training of two encoders: in-batch negatives over the whole batch, in the memory of a part of it.

Loss: Karpukhin et al. 2020, "Dense Passage Retrieval" (arXiv:2004.04906), section 3.2. Memory: the gradient caching of
Gao et al. 2021 (arXiv:2101.06983), which here is rematerialisation of a loop over parts of the batch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxmodels.sharding import Rules
from jaxmodels.training.batches import Batch, rows, split
from jaxmodels.training.step import Metrics, Step, compile_step

# (parameters, {name: [N, ...]}, key) -> [N, ...]. A row's vectors depend on that row alone, and on the key.
Encode = Callable[[Any, Mapping[str, jax.Array], jax.Array], jax.Array]
Loss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]


def in_chunks(encode: Encode, chunks: int) -> Encode:
    """The same encoder, worked off in so many parts one after the other, forwards and backwards.

    Forwards only the vectors are kept. Backwards, when the gradient of the loss with respect to all vectors is known,
    each part is computed again and its gradient added up. The gradients are those of the whole, at the price of a
    second forward pass; memory is that of one part.

    Row r is in part r % chunks, so that no row changes its device. Part i draws its dropout, in both passes, from
    `jax.random.split(key, chunks)[i]`.

    Raises:
      ValueError: chunks < 1; in a call, rows that do not divide into the chunks.
    """
    if chunks < 1:
        raise ValueError(f"chunks is at least 1, got {chunks}")
    if chunks == 1:
        return encode

    def encode_chunks(params, inputs, key):
        if (n := rows(inputs)) % chunks:
            raise ValueError(f"{n} rows do not divide into {chunks} chunks of the same size")
        # A scan's body is compiled once, and nothing can merge its two passes: common subexpressions need no barrier.
        part = jax.checkpoint(lambda chunk: encode(params, *chunk), prevent_cse=False)
        vectors = jax.lax.map(part, (split(inputs, chunks), jax.random.split(key, chunks)))
        return vectors.swapaxes(0, 1).reshape(n, *vectors.shape[2:])

    return encode_chunks


def in_batch_loss(
    questions: jax.Array, contexts: jax.Array, passages: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    """Cross entropy of finding each question's passage among the passages of the whole batch, by inner product.

    Args:
      questions: [B,D].
      contexts: [B,C,D], for each question its passage and C - 1 hard negatives.
      passages: int [B,C], which passages these are. Where another question of the batch brings the same passage it is
        left out, because it is no wrong answer; None: all are taken to be different.

    Returns:
      The mean over the questions, a float32 scalar, and {"in_batch_accuracy"}: how many questions find theirs first.
    """
    b, c = contexts.shape[:2]
    scores = jnp.einsum(
        "qd,bcd->qbc",
        questions,
        contexts,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    if passages is not None:
        own = jnp.eye(b, dtype=bool)[:, :, None] & (jnp.arange(c) == 0)
        same = passages[None] == passages[:, :1, None]
        scores = jnp.where(same & ~own, -jnp.inf, scores)
    scores, right = scores.reshape(b, b * c), jnp.arange(b) * c
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, right).mean()
    return loss, {"in_batch_accuracy": jnp.mean(scores.argmax(axis=-1) == right)}


def contrastive_loss(question: Encode, context: Encode, microbatches: int = 1) -> Loss:
    """(params, batch, key) -> (loss, metrics) of two encoders.

    Args:
      question: its vectors are [B,D]. It gets the batch's arrays whose names begin with "question_", without that.
      context: its vectors are [B,C,D]. It gets those that begin with "context_".
      microbatches: see `in_chunks`.
    """
    encoders = {"question_": in_chunks(question, microbatches), "context_": in_chunks(context, microbatches)}

    def loss(params, batch, key):
        questions, contexts = (
            encode(params, {n.removeprefix(prefix): a for n, a in batch.items() if n.startswith(prefix)}, subkey)
            for (prefix, encode), subkey in zip(encoders.items(), jax.random.split(key), strict=True)
        )
        return in_batch_loss(questions, contexts, batch.get("passages"))

    return loss


def make_contrastive_step(
    model: nn.Module,
    question: Encode,
    context: Encode,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    microbatches: int = 1,
) -> Step:
    """The training step; its metrics are loss, in_batch_accuracy, grad_norm and skipped (`Step`).

    Negatives come from the whole batch, wherever its rows are: it is one program over all devices.

    Args:
      model: whose parameters the encoders share or divide between them; for their shardings.
      question, context: see `contrastive_loss`; with "passages", int [B,C], `in_batch_loss` leaves out doubles.
      mesh, rules: as in `make_step`.
      microbatches: the batch is encoded in this many parts, with the gradients of the whole batch.

    Raises:
      ValueError: microbatches < 1; in a call, rows that do not divide among microbatches and devices.
    """
    value_and_grad = jax.value_and_grad(contrastive_loss(question, context, microbatches), has_aux=True)

    def gradient(params, batch, key):
        (loss, metrics), grads = value_and_grad(params, batch, key)
        return {"loss": loss, **metrics}, grads, jnp.float32(1)

    return compile_step(gradient, model, optimizer, mesh=mesh, rules=rules, microbatches=microbatches)
