"""Loss and predictions of a model on a whole set of examples."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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
      best: The most probable class for each example, int [] or [T] (padding included).
    """

    loss: float
    best: list[np.ndarray]


def label_count(batch: Batch) -> jax.Array:
    """Return the number of labels over which the loss of a batch is averaged."""
    return jnp.sum(batch["labels"] != IGNORE)


def make_predict(
    model: nn.Module, mesh: Mesh, rules: Rules
) -> Callable[[Any, Iterable[tuple[np.ndarray, Batch]]], Predictions]:
    """Create predict(params, batches) -> Predictions, without dropout.

    Batches are (indices, batch), as `buckets.evaluation` yields them. Loss and predictions come from the same forward
    pass; `training.make_evaluate` would run the model a second time for the loss.
    """

    def forward(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        out: Any = model.apply({"params": params}, **batch)
        terms = label_count(batch)
        return jnp.where(terms > 0, out.loss, 0.0) * terms, terms, jnp.argmax(out.logits, axis=-1)

    compiled = jax.jit(forward, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def predict(params: Any, batches: Iterable[tuple[np.ndarray, Batch]]) -> Predictions:
        best: dict[int, np.ndarray] = {}
        sums = []
        for indices, batch in batches:
            with jm.sharding.use(mesh, rules):
                total, terms, classes = jax.device_get(compiled(params, batch))
            sums.append((float(total), float(terms)))
            best |= dict(zip(indices.tolist(), classes, strict=False))  # the last rows may be padding
        totals, terms = map(sum, zip(*sums, strict=True))
        return Predictions(totals / terms, [best[index] for index in range(len(best))])

    return predict
