"""The losses of the heads, in float32 (reference: docs/parity.md, C14, C15, G12)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

IGNORE = -100


def cross_entropy(logits: jax.Array, labels: jax.Array, ignore_index: int = IGNORE) -> jax.Array:
    """Mean negative log-likelihood over the labels that are not `ignore_index`; NaN if all are, as in the reference.

    Args:
      logits: [..., V]; labels: int [...].

    Raises:
      ValueError: labels of another shape, or outside [0, V) (under jit such a label gives NaN).
      TypeError: labels that are not integers.
    """
    classes = logits.shape[-1]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels are integers, one of {classes} classes each; got {labels.dtype}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"one label is needed for each of the logits {logits.shape}; got labels of shape {labels.shape}"
        )
    if not isinstance(labels, jax.core.Tracer):
        values = np.asarray(labels)
        wrong = values[(values != ignore_index) & ((values < 0) | (values >= classes))]
        if wrong.size:
            raise ValueError(f"labels are 0 to {classes - 1}, or {ignore_index} to be ignored; got {wrong[0]}")
    valid, inside = labels != ignore_index, (labels >= 0) & (labels < classes)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.where(inside, labels, 0))
    # 0/0 for a label that is no class. A NaN written out would itself be found by jax_debug_nans, in a sound loss.
    known = jnp.where(jnp.all(inside | ~valid), 1.0, 0.0)
    return jnp.sum(jnp.where(valid, losses, 0.0)) * (known / known) / jnp.sum(valid).astype(jnp.float32)


def next_token_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Causal language modelling: the logits at t are scored against the label at t+1.

    The labels are shifted, not the logits: a slice of [B,T,V] would be copied.
    """
    last = jnp.full_like(labels[..., :1], IGNORE)
    return cross_entropy(logits, jnp.concatenate([labels[..., 1:], last], axis=-1))


def classification_loss(
    logits: jax.Array, labels: jax.Array, problem_type: str | None, num_labels: int | None
) -> jax.Array:
    """Regression, single-label or multi-label loss; the kind is inferred from the labels if it is None.

    Args:
      logits: [B, num_labels]; labels: [B] int or float, or [B, num_labels] float.
    """
    assert num_labels is not None
    if problem_type is None:
        integers = jnp.issubdtype(labels.dtype, jnp.integer)
        single = "single_label_classification" if integers else "multi_label_classification"
        problem_type = "regression" if num_labels == 1 else single
    logits = logits.astype(jnp.float32)
    if problem_type == "regression":
        if num_labels == 1:
            logits, labels = logits.reshape(-1), labels.reshape(-1)
        if logits.shape != labels.shape:
            raise ValueError(f"regression labels have the shape of the logits, {logits.shape}; got {labels.shape}")
        return jnp.mean(jnp.square(logits - labels.astype(jnp.float32)))
    if problem_type == "single_label_classification":
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"{problem_type} needs integer labels, got {labels.dtype}")
        return cross_entropy(logits.reshape(-1, num_labels), labels.reshape(-1))
    if logits.shape != labels.shape:
        raise ValueError(f"{problem_type} needs labels of the shape of the logits, {logits.shape}; got {labels.shape}")
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)))


def span_loss(start_logits, end_logits, start_positions, end_positions) -> jax.Array:
    """Extractive question answering: mean of the start and the end loss; positions beyond the sequence are ignored.

    Args:
      start_logits, end_logits: [B,T]; start_positions, end_positions: int [B] or [B,1].
    """
    length = start_logits.shape[1]

    def one(logits, positions):
        return cross_entropy(logits, jnp.clip(positions.reshape(-1), 0, length), ignore_index=length)

    return (one(start_logits, start_positions) + one(end_logits, end_positions)) / 2
