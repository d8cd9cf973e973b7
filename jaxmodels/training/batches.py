"""Batches: dicts of arrays [B, ...] named as the model's keywords."""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.sharding import Rules, batch_sharding

Batch = Mapping[str, jax.Array | np.ndarray]
# Number of terms that a batch's mean loss runs over, e.g. lambda batch: (batch["labels"] != -100).sum()
Weight = Callable[[Batch], jax.Array]


def place(batch: Batch, mesh: Mesh, rules: Rules) -> dict[str, jax.Array]:
    """The batch on the mesh, rows split as the rules say.

    With several processes each brings its own rows, B / processes of them, and the result is the whole batch. Where
    the devices of several processes hold the same rows (a model axis that spans hosts), the devices exchange them.

    Raises:
      ValueError: the processes would have to exchange rows, and have different numbers of devices in the mesh.
    """
    sharding = batch_sharding(mesh, rules)
    if not _shared(sharding):
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
    own = _by_process(mesh)
    return jax.device_put(
        {n: jax.make_array_from_process_local_data(own, array) for n, array in batch.items()}, sharding
    )


@functools.cache
def _shared(sharding: NamedSharding) -> bool:
    """Whether devices of different processes hold the same rows."""
    holders: dict[tuple[int, int, int], set[int]] = {}
    parts = sharding.mesh.size  # rows that every way of splitting divides
    for device, (rows_of, *_) in sharding.devices_indices_map((parts,)).items():
        holders.setdefault(rows_of.indices(parts), set()).add(device.process_index)
    return any(len(processes) > 1 for processes in holders.values())


@functools.cache
def _by_process(mesh: Mesh) -> NamedSharding:
    """Rows split over the processes; each one's devices hold all that it brings."""
    devices: dict[int, list[jax.Device]] = {}
    for device in mesh.devices.flat:
        devices.setdefault(device.process_index, []).append(device)
    if len({len(own) for own in devices.values()}) > 1:
        raise ValueError(
            "processes whose devices hold the same rows of a batch need equally many devices in the mesh; they have "
            f"{ {process: len(own) for process, own in devices.items()} }"
        )
    table = np.array([devices[process] for process in sorted(devices)])
    return NamedSharding(Mesh(table, ("process", "device")), PartitionSpec("process"))


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
