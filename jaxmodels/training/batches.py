"""Batches: dicts of arrays [B, ...], named as the model's keyword arguments."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.sharding import Rules, batch_parts, batch_sharding, rows_of_process

Batch = Mapping[str, jax.Array | np.ndarray]
# Number of terms in the mean loss of a batch, e.g. lambda batch: (batch["labels"] != -100).sum()
Weight = Callable[[Batch], jax.Array]


def place(batch: Batch, mesh: Mesh, rules: Rules, *, size: int | None = None) -> dict[str, jax.Array]:
    """Transfers a batch to the mesh, sharded by the rules.

    With several processes, each passes `size` and the rows of the global batch that its devices hold (see
    `sharding.addressable_rows`), and nothing is exchanged.

    Without `size`, each passes the same number of examples, and the global batch consists of those of the first
    process, then those of the second, and so on. If other devices hold them (a model axis that spans hosts, processes
    that alternate in the mesh), the devices exchange them. All processes have to call this function, and wait for each
    other: with `size` they do not.

    Args:
      batch: arrays [rows, ...] of this process.
      mesh: the mesh.
      rules: the sharding rules.
      size: number of examples of the global batch.

    Returns:
      The global batch, arrays [size, ...].

    Raises:
      ValueError: an empty batch, arrays with another number of rows than expected, a batch that is not divisible among
        the devices; without `size`, processes with different numbers of examples, or of devices if they have to
        exchange examples.

    Examples:
      >>> mesh, rules = jm.sharding.make_mesh({"data": -1}), jm.sharding.FSDP
      >>> batch = training.place({"input_ids": np.ones((8, 4), int)}, mesh, rules)
      >>> batch["input_ids"].sharding == jm.sharding.batch_sharding(mesh, rules)
      True
    """
    sharding, rows = batch_sharding(mesh, rules), batch_size(batch)
    if size is None:
        processes = tuple(sorted({device.process_index for device in mesh.devices.flat}))
        size = rows * len(processes)
        if len(processes) > 1:
            _check_equal(processes, rows)
        if not _in_order_of_processes(sharding, processes, size):
            per_process = _per_process_sharding(mesh, processes)
            return jax.device_put(_assemble(batch, per_process, size), sharding)
    expected = len(rows_of_process(sharding, size, jax.process_index()))
    if rows != expected:
        raise ValueError(
            f"of a global batch of {size} examples, this process has to pass the {expected} rows that "
            f"sharding.addressable_rows(mesh, rules, {size}) returns, got {rows}"
        )
    return _assemble(batch, sharding, size)


def _assemble(batch: Batch, sharding: NamedSharding, size: int) -> dict[str, jax.Array]:
    """Returns arrays [size, ...] of the rows that this process holds."""
    if sharding.is_fully_addressable:
        return jax.device_put(dict(batch), sharding)
    held = rows_of_process(sharding, size, jax.process_index())

    def part(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(size)
        return array[slice(*np.searchsorted(held, (start, stop)))]

    return {
        name: jax.make_array_from_callback(
            (size, *array.shape[1:]), sharding, functools.partial(part, np.asarray(array))
        )
        for name, array in batch.items()
    }


def _check_equal(processes: tuple[int, ...], rows: int) -> None:
    """Raises ValueError if the processes pass different numbers of rows."""
    if len(processes) < jax.process_count():
        return  # the others do not call this
    found = multihost_utils.process_allgather(np.int32(rows)).tolist()
    if len(set(found)) > 1:
        raise ValueError(
            f"without size, all processes have to pass the same number of examples, got {found} by process; pass "
            "size= and the rows that sharding.addressable_rows returns"
        )


@functools.cache
def _in_order_of_processes(sharding: NamedSharding, processes: tuple[int, ...], size: int) -> bool:
    """Whether each process holds its equal share of the rows, in order of processes."""
    shares = np.split(np.arange(size), len(processes))
    return all(
        np.array_equal(rows_of_process(sharding, size, process), share)
        for process, share in zip(processes, shares, strict=True)
    )


@functools.cache
def _per_process_sharding(mesh: Mesh, processes: tuple[int, ...]) -> NamedSharding:
    """Shards the batch over the processes; the devices of each process hold all of its examples."""
    devices = {process: [d for d in mesh.devices.flat if d.process_index == process] for process in processes}
    counts = {process: len(local) for process, local in devices.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "processes that have to exchange examples must have the same number of devices in the mesh, got "
            f"{counts}; pass size= and the rows that sharding.addressable_rows returns"
        )
    return NamedSharding(Mesh(np.array(list(devices.values())), ("process", "device")), PartitionSpec("process"))


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
    parts = 1 if mesh is None or rules is None else batch_parts(batch_sharding(mesh, rules))
    if (n := batch_size(batch)) % (parts * microbatches):
        raise ValueError(
            f"a batch of {n} examples does not divide into {microbatches} microbatch(es) on {parts} device(s) of the "
            f"batch axis; make the batch size a multiple of {parts * microbatches}"
        )


def split(batch: Batch, microbatches: int) -> dict[str, jax.Array | np.ndarray]:
    """Reshapes [B, ...] to [microbatches, B / microbatches, ...]; strided, so that no example changes its device."""
    return {name: array.reshape(-1, microbatches, *array.shape[1:]).swapaxes(0, 1) for name, array in batch.items()}
