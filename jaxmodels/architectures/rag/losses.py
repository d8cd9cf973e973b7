"""Likelihoods that sum over documents (Lewis et al., 2020, arXiv:2005.11401, section 2.1).

Reference: transformers/models/rag/modeling_rag.py, `get_nll` and `marginalize` (docs/parity.md, A8, A9, A10).
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
    """The target of each position, [B,T]: the ids shifted to the left by one."""
    return jnp.concatenate([ids[:, 1:], jnp.full_like(ids[:, :1], pad)], axis=1)


def sequence_loss(
    logits: jax.Array,
    doc_scores: jax.Array,
    targets: jax.Array,
    *,
    pad: int,
    without_first: jax.Array | bool,
    smoothing: float,
) -> jax.Array:
    """RAG-sequence: one document for the whole sequence. float32 [B].

    Args:
      targets: int [B,T], what each position is to predict (see `targets_of`); `pad` is not counted.
      without_first: bool scalar or [B]: leave out the first target, which is bos.
    """
    counted, vocabulary = (targets != pad)[:, None], logits.shape[-1]
    found, spread = _of_targets(logits, doc_scores, targets, smoothing)
    # The document's score goes with the second target, so that it is counted where the first is left out.
    documents = jax.nn.log_softmax(doc_scores, axis=1)
    left_out = jnp.broadcast_to(jnp.asarray(without_first), targets.shape[:1])[:, None]

    def together(tokens: jax.Array, share: jax.Array, left_out: jax.Array | bool) -> jax.Array:
        tokens = jnp.where(counted, tokens.at[:, :, 1].add(share), 0.0)
        tokens = tokens.at[:, :, 0].set(jnp.where(left_out, 0.0, tokens[:, :, 0]))
        return jax.nn.logsumexp(tokens.sum(axis=2), axis=1)

    likelihood = together(found, documents, left_out)
    if spread is None:
        return -likelihood
    return _smoothed(likelihood, together(spread, vocabulary * documents, False), smoothing, vocabulary)


def token_loss(logits: jax.Array, doc_scores: jax.Array, labels: jax.Array, *, pad: int, smoothing: float) -> jax.Array:
    """RAG-token: every token may come from another document. float32 [B]; labels int [B,T], shifted to the left."""
    targets = targets_of(labels, pad)
    counted = targets != pad
    found, _ = _of_targets(logits, doc_scores, targets, smoothing=0.0)
    documents = jax.nn.log_softmax(doc_scores, axis=1)[:, :, None]
    likelihood = jnp.where(counted, jax.nn.logsumexp(found + documents, axis=1), 0.0).sum(axis=1)
    if not smoothing:
        return -likelihood
    spread = jnp.where(counted, marginalize(logits, doc_scores).sum(axis=-1), 0.0).sum(axis=1)
    return _smoothed(likelihood, spread, smoothing, logits.shape[-1])


def _of_targets(
    logits: jax.Array, doc_scores: jax.Array, targets: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array | None]:
    """By each document, the log-probability of each target [B,n,T], and with smoothing the sum over the vocabulary.

    The log-probabilities of the other tokens are never materialized: they would be as large as the logits.
    """
    logits = logits.astype(jnp.float32).reshape(*doc_scores.shape, *logits.shape[1:])
    total = jax.nn.logsumexp(logits, axis=-1)
    found = jnp.take_along_axis(logits, targets[:, None, :, None], axis=-1)[..., 0] - total
    return found, logits.sum(axis=-1) - logits.shape[-1] * total if smoothing else None


def _smoothed(likelihood: jax.Array, spread: jax.Array, smoothing: float, vocabulary: int) -> jax.Array:
    return -(1.0 - smoothing) * likelihood - smoothing / vocabulary * spread
