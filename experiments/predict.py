"""A model's loss and its predictions on a whole set of examples."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxmodels as jm
from experiments.data.batches import IGNORE
from jaxmodels.sharding import Rules


class Predicted(NamedTuple):
    """loss: mean over all labels. best: for each example the most probable class, int, [] or [T] (padding included)."""

    loss: float
    best: list[np.ndarray]


def label_count(batch: dict) -> jax.Array:
    """Labels that a batch's loss is the mean over."""
    return jnp.sum(batch["labels"] != IGNORE)


def make_predict(model: nn.Module, mesh: Mesh, rules: Rules) -> Callable[[Any, Iterable], Predicted]:
    """predict(params, batches) -> Predicted, without dropout; batches are (indices, batch) as from `evaluation`.

    One pass gives both: `training.make_evaluate` would run the model a second time for the loss.
    """

    def forward(params, batch):
        out, terms = model.apply({"params": params}, **batch), label_count(batch)
        return jnp.where(terms > 0, out.loss, 0.0) * terms, terms, jnp.argmax(out.logits, axis=-1)

    compiled = jax.jit(forward, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def predict(params, batches) -> Predicted:
        best, sums = {}, []
        for indices, batch in batches:
            with jm.sharding.use(mesh, rules):
                total, terms, classes = jax.device_get(compiled(params, batch))
            sums.append((float(total), float(terms)))
            best |= dict(zip(indices.tolist(), classes, strict=False))  # the last rows may be no examples
        totals, terms = map(sum, zip(*sums, strict=True))
        return Predicted(totals / terms, [best[index] for index in range(len(best))])

    return predict
