"""Batches: dicts of arrays [B, ...] named as the model's keywords."""

import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmodels.sharding import Rules, batch_sharding

Batch = Mapping[str, jax.Array | np.ndarray]
# Number of terms that a batch's mean loss runs over, e.g. lambda batch: (batch["labels"] != -100).sum()
Weight = Callable[[Batch], jax.Array]


def place(batch: Batch, mesh: Mesh, rules: Rules) -> dict[str, jax.Array]:
    """The batch on the mesh, rows split as the rules say.

    With several processes each brings its own rows, B / processes of them, and the result is the whole batch.
    """
    sharding = batch_sharding(mesh, rules)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def rows(batch: Batch) -> int:
    """B.

    Raises:
      ValueError: the batch is empty, or its arrays have different numbers of rows.
    """
    sizes = {name: array.shape[0] for name, array in batch.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"a batch is a dict of arrays with the same number of rows, at least one; got {sizes}")
    return next(iter(sizes.values()))


def check_rows(batch: Batch, microbatches: int, mesh: Mesh | None, rules: Rules | None) -> None:
    """Raises ValueError where the rows do not divide among the microbatches and the devices."""
    parts = 1
    if mesh is not None:
        (axes,) = batch_sharding(mesh, rules).spec
        axes = (axes,) if isinstance(axes, str) else axes or ()
        parts = math.prod(mesh.shape[axis] for axis in axes)
    if (n := rows(batch)) % (parts * microbatches):
        raise ValueError(
            f"a batch of {n} rows does not divide into {microbatches} microbatch(es) on {parts} device(s) of the batch "
            f"axis; make the batch size a multiple of {parts * microbatches}"
        )


def split(batch: Batch, microbatches: int) -> dict[str, jax.Array]:
    """[B, ...] as [microbatches, B / microbatches, ...]. Rows are dealt out in turn, so no row changes its device."""
    return {name: array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1) for name, array in batch.items()}
