"""Contrastive training of two encoders: in-batch negatives over the whole batch, in the memory of one chunk.

Loss: Karpukhin et al. 2020, "Dense Passage Retrieval" (arXiv:2004.04906), section 3.2. Memory: gradient caching of Gao
et al. 2021 (arXiv:2101.06983), implemented as rematerialisation of a loop over chunks of the batch.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxmodels.sharding import Rules
from jaxmodels.training.batches import Batch, batch_size, split
from jaxmodels.training.state import Trainable
from jaxmodels.training.step import Loss, Metrics, Step, ValueAndGrad, compile_step

# (params, {name: [N, ...]}, key) -> [N, ...]. The vectors of an example depend only on that example and the key.
Encode = Callable[[Any, Batch, jax.Array], jax.Array]


def in_chunks(encode: Encode, chunks: int) -> Encode:
    """Returns the same encoder, evaluated in chunks sequentially in the forward and the backward pass.

    The forward pass stores only the vectors. The backward pass, given the gradient of the loss with respect to all
    vectors, recomputes each chunk and accumulates its gradient. The gradients are those of the whole batch at the cost
    of a second forward pass; the memory is that of one chunk.

    Example r is in chunk r % chunks, so that no example changes its device. In both passes, chunk i draws its dropout
    from `jax.random.split(key, chunks)[i]`.

    Raises:
      ValueError: chunks < 1; in a call, a number of examples that is not divisible by chunks.

    Examples:
      >>> encode = training.in_chunks(lambda params, inputs, key: inputs["x"] * params, chunks=2)
      >>> encode(2.0, {"x": jnp.ones((4, 3))}, jax.random.key(0)).shape  # computed two examples at a time
      (4, 3)
    """
    if chunks < 1:
        raise ValueError(f"chunks must be at least 1, got {chunks}")
    if chunks == 1:
        return encode

    def encode_chunks(params: Any, inputs: Batch, key: jax.Array) -> jax.Array:
        if (n := batch_size(inputs)) % chunks:
            raise ValueError(f"{n} examples do not divide into {chunks} chunks of the same size")
        # prevent_cse is not needed: the body of a scan is compiled once, and its two passes cannot be merged.
        encode_chunk = jax.checkpoint(lambda chunk: encode(params, *chunk), prevent_cse=False)
        vectors = jax.lax.map(encode_chunk, (split(inputs, chunks), jax.random.split(key, chunks)))
        return vectors.swapaxes(0, 1).reshape(n, *vectors.shape[2:])

    return encode_chunks


def in_batch_loss(
    questions: jax.Array, contexts: jax.Array, passages: jax.Array | np.ndarray | None = None
) -> tuple[jax.Array, Metrics]:
    """Computes the cross entropy of each question's passage among the passages of the batch, by inner product.

    Args:
      questions: [B,D].
      contexts: [B,C,D], for each question its positive passage and C - 1 hard negatives.
      passages: int [B,C], passage ids. A copy of the positive passage that comes with another question is masked,
        because it is not a negative. None if all passages are different.

    Returns:
      The mean over the questions, a float32 scalar, and {"in_batch_accuracy"}: the fraction of questions whose own
      passage has the largest inner product.

    Examples:
      >>> questions, contexts = jnp.eye(2), jnp.eye(2)[:, None]  # [2, 2], and one passage for each question: [2, 1, 2]
      >>> loss, metrics = training.in_batch_loss(questions, contexts)
      >>> round(float(loss), 4), float(metrics["in_batch_accuracy"])
      (0.3133, 1.0)
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
        positive = jnp.eye(b, dtype=bool)[:, :, None] & (jnp.arange(c) == 0)
        same = passages[None] == passages[:, :1, None]
        scores = jnp.where(same & ~positive, -jnp.inf, scores)
    scores, targets = scores.reshape(b, b * c), jnp.arange(b) * c
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, targets).mean()
    return loss, {"in_batch_accuracy": jnp.mean(scores.argmax(axis=-1) == targets)}


def contrastive_loss(question: Encode, context: Encode, microbatches: int = 1) -> Loss:
    """Returns the loss function (params, batch, key) -> (loss, metrics) of two encoders.

    Args:
      question: returns [B,D]; its inputs are the batch's arrays with the prefix "question_", without the prefix.
      context: returns [B,C,D]; its inputs are those with the prefix "context_".
      microbatches: number of chunks, see `in_chunks`.

    Examples:
      >>> def question(params, inputs, key):
      ...     return inputs["x"] @ params
      >>> def context(params, inputs, key):
      ...     return (inputs["x"] @ params)[:, None]  # one passage for each question
      >>> batch = {"question_x": jnp.eye(4), "context_x": jnp.eye(4)}
      >>> loss, metrics = training.contrastive_loss(question, context)(jnp.eye(4), batch, jax.random.key(0))
      >>> float(metrics["in_batch_accuracy"])
      1.0
    """
    encoders = {"question_": in_chunks(question, microbatches), "context_": in_chunks(context, microbatches)}

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        questions, contexts = (
            encode(
                params, {name.removeprefix(prefix): a for name, a in batch.items() if name.startswith(prefix)}, subkey
            )
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
    trainable: Trainable | None = None,
) -> Step:
    """Returns the contrastive training step; its metrics are loss, in_batch_accuracy, grad_norm and skipped (`Step`).

    Negatives come from the global batch, across all devices.

    Args:
      model: model that holds the parameters of both encoders; determines their shardings.
      question: see `contrastive_loss`.
      context: see `contrastive_loss`. If the batch has "passages", int [B,C], `in_batch_loss` masks duplicates.
      optimizer: Optax optimizer.
      mesh: see `make_step`.
      rules: see `make_step`.
      microbatches: number of chunks to encode the batch in; the gradients are those of the whole batch.
      trainable: see `make_step`.

    Raises:
      ValueError: microbatches < 1; in a call, a batch that is not divisible among microbatches and devices.

    Examples:
      >>> config = jm.DPRConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
      >>> model = jm.DPRQuestionEncoder(config)  # for questions and passages
      >>> def question(params, inputs, key):
      ...     return model.apply({"params": params}, **inputs, rngs={"dropout": key}).pooler_output
      >>> def context(params, inputs, key):
      ...     return question(params, inputs, key)[:, None]  # one passage for each question
      >>> optimizer = optax.adamw(1e-5)
      >>> step = training.make_contrastive_step(model, question, context, optimizer, microbatches=2)
      >>> state = training.init_state(optimizer, jm.init(model, jax.random.key(0)))
      >>> batch = {"question_input_ids": np.ones((4, 3), int), "context_input_ids": np.ones((4, 5), int)}
      >>> state, metrics = step(state, batch, jax.random.key(1))
      >>> sorted(metrics)
      ['grad_norm', 'in_batch_accuracy', 'loss', 'skipped']
    """
    loss = contrastive_loss(question, context, microbatches)

    def gradient(
        params: Any, batch: Batch, key: jax.Array, value_and_grad: ValueAndGrad
    ) -> tuple[Metrics, Any, jax.Array]:
        (value, metrics), grads = value_and_grad(loss)(params, batch, key)
        return {"loss": value, **metrics}, grads, jnp.float32(1)

    return compile_step(
        gradient, model, optimizer, mesh=mesh, rules=rules, microbatches=microbatches, trainable=trainable
    )
