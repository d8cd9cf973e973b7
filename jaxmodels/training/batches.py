"""Batches: dicts of arrays [B, ...], named as the model's keyword arguments."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.sharding import Rules, batch_sharding

Batch = Mapping[str, jax.Array | np.ndarray]
# Number of terms in the mean loss of a batch, e.g. lambda batch: (batch["labels"] != -100).sum()
Weight = Callable[[Batch], jax.Array]


def place(batch: Batch, mesh: Mesh, rules: Rules) -> dict[str, jax.Array]:
    """Transfers a batch to the mesh, sharded by the rules.

    With several processes, each passes its own B / processes examples, and the result is the global batch. If devices
    of several processes hold the same examples (a model axis that spans hosts), the devices exchange them.

    Raises:
      ValueError: the processes would have to exchange examples but have different numbers of devices in the mesh.

    Examples:
      >>> mesh, rules = jm.sharding.make_mesh({"data": -1}), jm.sharding.FSDP
      >>> batch = training.place({"input_ids": np.ones((8, 4), int)}, mesh, rules)
      >>> batch["input_ids"].sharding == jm.sharding.batch_sharding(mesh, rules)
      True
    """
    sharding = batch_sharding(mesh, rules)
    if not _is_shared(sharding):
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
    per_process = _per_process_sharding(mesh)
    return jax.device_put(
        {name: jax.make_array_from_process_local_data(per_process, array) for name, array in batch.items()}, sharding
    )


@functools.cache
def _is_shared(sharding: NamedSharding) -> bool:
    """Whether devices of different processes hold the same examples."""
    holders: dict[tuple[int, int, int], set[int]] = {}
    parts = sharding.mesh.size  # a batch size that every sharding divides
    for device, (examples, *_) in sharding.devices_indices_map((parts,)).items():
        process = device.process_index  # type: ignore[attr-defined]  # JAX declares an unknown class
        holders.setdefault(examples.indices(parts), set()).add(process)
    return any(len(processes) > 1 for processes in holders.values())


@functools.cache
def _per_process_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the batch over the processes; the devices of each process hold all of its examples."""
    devices: dict[int, list[jax.Device]] = {}
    for device in mesh.devices.flat:
        devices.setdefault(device.process_index, []).append(device)
    counts = {process: len(local) for process, local in devices.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "processes whose devices hold the same examples must have the same number of devices in the mesh, got "
            f"{counts}"
        )
    table = np.array([devices[process] for process in sorted(devices)])
    return NamedSharding(Mesh(table, ("process", "device")), PartitionSpec("process"))


def batch_size(batch: Mapping[str, Any]) -> int:
    """Returns B.

    Raises:
      ValueError: the batch is empty, or its arrays differ in their leading dimension.
    """
    sizes = {name: array.shape[0] for name, array in batch.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"a batch must be a dict of arrays with the same leading dimension, at least 1; got {sizes}")
    return next(iter(sizes.values()))


def check_batch_size(batch: Mapping[str, Any], microbatches: int, mesh: Mesh | None, rules: Rules | None) -> None:
    """Raises ValueError if the batch is not divisible among microbatches and devices."""
    parts = 1
    if mesh is not None and rules is not None:
        (axes,) = batch_sharding(mesh, rules).spec
        axes = (axes,) if isinstance(axes, str) else axes or ()
        parts = math.prod(mesh.shape[axis] for axis in axes)
    if (n := batch_size(batch)) % (parts * microbatches):
        raise ValueError(
            f"a batch of {n} examples does not divide into {microbatches} microbatch(es) on {parts} device(s) of the "
            f"batch axis; make the batch size a multiple of {parts * microbatches}"
        )


def split(batch: Batch, microbatches: int) -> dict[str, jax.Array | np.ndarray]:
    """Reshapes [B, ...] to [microbatches, B / microbatches, ...]; strided, so that no example changes its device."""
    return {name: array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1) for name, array in batch.items()}
