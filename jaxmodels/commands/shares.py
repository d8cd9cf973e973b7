"""Which document an answer is from, as a share of the answer's probability (Lewis et al., 2020, arXiv:2005.11401)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxmodels.architectures.rag.losses import by_document, targets_of


def shares(
    logits: jax.Array, doc_scores: jax.Array, decoder_ids: jax.Array, *, marginal: str, ignored: Sequence[int | None]
) -> jax.Array:
    """float32 [B,n], the rows sum to 1.

    RAG-sequence has one document for the whole answer, and its share is p(document | question, answer). In RAG-token
    every token may come from another one, and the share is the mean of p(document | question, token, the tokens before
    it) over the answer's tokens.

    Args:
      logits: [B*n,T,V] of every document. doc_scores: float32 [B,n]. decoder_ids: int [B,T], the start and the answer.
      marginal: "sequence" or "token", as the classes of RAG have it.
      ignored: ids that do not count (padding, bos).
    """
    tokens, documents = by_document(logits, doc_scores)
    targets = targets_of(decoder_ids, ignored[0])
    counted = jnp.ones(targets.shape, bool)
    for token in ignored:
        counted &= targets != (-1 if token is None else token)
    found = jnp.take_along_axis(tokens, targets[:, None, :, None], axis=-1)[..., 0]
    if marginal == "sequence":
        return jax.nn.softmax(documents + jnp.where(counted[:, None], found, 0.0).sum(axis=2), axis=1)
    each = jax.nn.softmax(documents[:, :, None] + found, axis=1)
    count = counted.sum(axis=1, keepdims=True)
    mean = jnp.where(counted[:, None], each, 0.0).sum(axis=2) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.exp(documents))
