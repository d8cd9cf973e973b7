"""Loss and predictions of a model on a whole set of examples."""

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxmodels as jm
from jaxmodels.sharding import Rules

from .data.batches import IGNORE

Batch = Mapping[str, Any]  # arrays [B, ...]


class Predictions(NamedTuple):
    """Predictions on a set of examples.

    Attributes:
      loss: Mean over all labels.
      best: For each example what is kept of the output: the most probable class, int [] or [T] (padding included), or
        another array or tuple of arrays.
    """

    loss: float
    best: list[Any]


Predict: TypeAlias = Callable[[Any, Iterable[tuple[np.ndarray, Batch]]], Predictions]


def label_count(batch: Batch) -> jax.Array:
    """Return the number of labels over which the loss of a batch is averaged."""
    labels = batch["labels"]
    return jnp.sum(~jnp.isnan(labels) if jnp.issubdtype(labels.dtype, jnp.floating) else labels != IGNORE)


def own_loss(output: Any, batch: Batch) -> jax.Array:
    """Return the loss that the model computed."""
    return output.loss


def best_class(output: Any) -> jax.Array:
    """Return the most probable class of an output with logits, int [B] or [B,T]."""
    return jnp.argmax(output.logits, axis=-1)


def make_predict(
    model: nn.Module,
    mesh: Mesh,
    rules: Rules,
    *,
    weight: Callable[[Batch], jax.Array] = label_count,
    loss: Callable[[Any, Batch], jax.Array] = own_loss,
    keep: Callable[[Any], Any] = best_class,
    generate: Callable[[Any, Batch], Any] | None = None,
) -> Predict:
    """Create predict(params, batches) -> Predictions, without dropout.

    Batches are (indices, batch), as `buckets.evaluation` yields them. Loss and predictions come from the same forward
    pass; `training.make_evaluate` would run the model a second time for the loss.

    Args:
      model: The model.
      mesh: The mesh of parameters and batches.
      rules: The sharding rules.
      weight: Number of terms in the mean loss of a batch.
      loss: (output, batch) -> mean loss of the labels in a batch.
      keep: output -> arrays [B, ...] that are kept as predictions.
      generate: (params, batch) -> arrays [B, ...] that are kept instead, of models whose predictions take more than a
        forward pass.
    """

    def forward(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, Any]:
        out: Any = model.apply({"params": params}, **batch)
        terms = weight(batch)
        kept = keep(out) if generate is None else ()
        return jnp.where(terms > 0, loss(out, batch), 0.0) * terms, terms, kept

    compiled = jax.jit(forward, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def predict(params: Any, batches: Iterable[tuple[np.ndarray, Batch]]) -> Predictions:
        best: dict[int, Any] = {}
        sums = []
        for indices, batch in batches:
            with jm.sharding.use(mesh, rules):
                total, terms, kept = jax.device_get(compiled(params, batch))
                if generate is not None:
                    kept = jax.device_get(generate(params, batch))
            sums.append((float(total), float(terms)))
            # The last rows may be padding.
            best |= {index: jax.tree.map(itemgetter(row), kept) for row, index in enumerate(indices.tolist())}
        totals, terms = map(sum, zip(*sums, strict=True))
        return Predictions(totals / terms, [best[index] for index in range(len(best))])

    return predict
