"""Likelihoods that sum over documents (Lewis et al., 2020, arXiv:2005.11401, section 2.1).

Reference: transformers/models/rag/modeling_rag.py, `get_nll` and `marginalize` (PARITY A8, A9, A10).
"""

import jax
import jax.numpy as jnp


def by_document(logits: jax.Array, doc_scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities [B,n,T,V] of tokens and [B,n] of documents, from logits [B*n,T,V] and scores [B,n]."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return logs.reshape(*doc_scores.shape, *logs.shape[1:]), jax.nn.log_softmax(doc_scores, axis=1)


def marginalize(logits: jax.Array, doc_scores: jax.Array) -> jax.Array:
    """Log-probabilities [B,T,V] of each token over all documents: RAG-token."""
    tokens, documents = by_document(logits, doc_scores)
    return jax.nn.logsumexp(tokens + documents[:, :, None, None], axis=1)


def targets_of(ids: jax.Array, pad: int) -> jax.Array:
    """What each position is to predict, [B,T]: the ids one place to the left."""
    return jnp.concatenate([ids[:, 1:], jnp.full_like(ids[:, :1], pad)], axis=1)


def sequence_loss(
    logits: jax.Array,
    doc_scores: jax.Array,
    decoder_ids: jax.Array,
    *,
    pad: int,
    without_first: jax.Array | bool,
    smoothing: float,
) -> jax.Array:
    """RAG-sequence: one document for the whole text. float32 [B].

    Args:
      decoder_ids: int [B,T], what the decoder read; the targets are these, shifted to the left.
      without_first: bool scalar or [B]: leave out the first target, which is bos.
    """
    tokens, documents = by_document(logits, doc_scores)
    # The document's score goes with the second target, so that it is counted where the first is left out.
    tokens = tokens.at[:, :, 1].add(documents[:, :, None])
    targets = targets_of(decoder_ids, pad)
    counted = targets != pad
    found = jnp.take_along_axis(tokens, targets[:, None, :, None], axis=-1)[..., 0]
    likelihood = jnp.where(counted[:, None], found, 0.0)
    spread = jnp.where(counted[:, None], tokens.sum(axis=-1), 0.0)
    left_out = jnp.broadcast_to(jnp.asarray(without_first), targets.shape[:1])[:, None]
    likelihood = likelihood.at[:, :, 0].set(jnp.where(left_out, 0.0, likelihood[:, :, 0]))
    likelihood, spread = (jax.nn.logsumexp(part.sum(axis=2), axis=1) for part in (likelihood, spread))
    return _smoothed(likelihood, spread, smoothing, logits.shape[-1])


def token_loss(logits: jax.Array, doc_scores: jax.Array, labels: jax.Array, *, pad: int, smoothing: float) -> jax.Array:
    """RAG-token: every token may come from another document. float32 [B]; labels int [B,T], shifted to the left."""
    tokens = marginalize(logits, doc_scores)
    targets = targets_of(labels, pad)
    counted = targets != pad
    found = jnp.take_along_axis(tokens, targets[:, :, None], axis=-1)[..., 0]
    likelihood, spread = (jnp.where(counted, part, 0.0).sum(axis=1) for part in (found, tokens.sum(axis=-1)))
    return _smoothed(likelihood, spread, smoothing, logits.shape[-1])


def _smoothed(likelihood: jax.Array, spread: jax.Array, smoothing: float, vocabulary: int) -> jax.Array:
    return -(1.0 - smoothing) * likelihood - smoothing / vocabulary * spread
