"""Sharding: rule tables from logical axis names to mesh axes, and the shardings of a model's parameters.

A rule table maps every logical axis name to a mesh axis, several mesh axes, or None. The reference's "pjit" is
`jax.jit` with these shardings.
"""

import collections
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels.messages import brief
from jaxmodels.parameters import abstract, flatten, logical_axes, unflatten

__all__ = [
    "AXES",
    "DP",
    "FSDP",
    "FSDP_TP",
    "Rules",
    "batch_sharding",
    "make_mesh",
    "shardings",
    "spec",
    "use",
]

# The logical axis names and what they stand for. A family from elsewhere adds its own: AXES["experts"] = "experts of a
# mixture"; the tables below then replicate that axis, and {**FSDP_TP, "experts": "model"} splits it.
AXES: dict[str, str] = {
    "batch": "examples",
    "length": "tokens of a sequence",
    "positions": "rows of a position table",
    "embed": "model width",
    "heads": "attention heads",
    "kv_heads": "heads of keys and values where each serves several heads of queries",
    "head_dim": "width of a head",
    "mlp": "width of the feed-forward layers",
    "vocab": "vocabulary",
    "layers": "layers of a stack",
}

Rules: TypeAlias = Mapping[str, str | tuple[str, ...] | None]


class _Table(Mapping[str, str | tuple[str, ...] | None]):
    """Rules for every name in `AXES`, None where there is no other."""

    def __init__(self, **rules: str | tuple[str, ...]):
        self._rules = rules

    def __getitem__(self, name: str) -> str | tuple[str, ...] | None:
        if name not in AXES:
            raise KeyError(name)
        return self._rules.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(AXES)

    def __len__(self) -> int:
        return len(AXES)

    def __repr__(self) -> str:
        return repr(dict(self))


# A position table has as many rows as its checkpoint says (514, 1026), which few meshes divide: then every device has
# all of them. Where they are split, its other axes are not split over the same mesh axes.
POSITIONS = "positions"

# Data parallelism: the batch is split over "data", parameters are replicated.
DP: Rules = _Table(batch="data")
# Fully sharded data parallelism: parameters are split over "data" too, along the model dimension of every matrix.
FSDP: Rules = _Table(batch="data", embed="data")
# With tensor parallelism: heads and feed-forward are split over "model". The vocabulary is not, because GPT-2's 50257
# tokens are not divisible by the size of a mesh axis. After resize_token_embeddings(..., pad_to_multiple_of=128) use
# {**FSDP_TP, "vocab": "model"}.
FSDP_TP: Rules = _Table(batch="data", embed="data", heads="model", kv_heads="model", mlp="model")


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Creates a mesh with axes of `AxisType.Auto`: the compiler shards what the rules leave open.

    The order of the axes is from least to most communication: the last axes get neighbours in the network of a TPU
    slice. Several slices, whose network in between is slow, are spanned by the first axes, as far as those need to:
    {"replica": 2, "fsdp": 256} over two slices of 256 devices replicates across slices.

    Args:
      axes: sizes by axis name, e.g. {"data": 4, "model": 2}; one size may be -1, for all remaining devices.
      devices: None is `jax.devices()`.

    Raises:
      ValueError: an invalid size, no axes or no devices, sizes that do not match the number of devices, or slices of
        different sizes.

    Examples:
      >>> mesh = jm.sharding.make_mesh({"data": -1, "model": 2})  # the devices of this process in pairs
      >>> mesh.axis_names
      ('data', 'model')
    """
    devices = jax.devices() if devices is None else list(devices)
    if not axes or not devices or not all(type(size) is int and size >= -1 and size for size in axes.values()):
        raise ValueError(
            f"the axes of a mesh must have sizes of at least 1, or -1 for one of them, got {brief(dict(axes))} for "
            f"{len(devices)} devices"
        )
    known = math.prod(size for size in axes.values() if size != -1)
    sizes = tuple(len(devices) // known if size == -1 else size for size in axes.values())
    if list(axes.values()).count(-1) > 1 or math.prod(sizes) != len(devices):
        raise ValueError(f"a mesh {brief(dict(axes))} does not fit {len(devices)} devices; one size may be -1")
    return Mesh(_arrange(devices, sizes), tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))


def _arrange(devices: list[jax.Device], sizes: tuple[int, ...]) -> np.ndarray:
    """The devices as an array of these sizes, in which neighbours along the last axes are neighbours in the network."""
    counts = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(set(counts.values())) > 1:
        raise ValueError(f"the slices of a mesh must have the same number of devices, got {dict(counts)}")
    outer, remaining = [], len(counts)
    for size in sizes:
        outer.append(math.gcd(size, remaining))
        remaining //= outer[-1]
    inner = [size // part for size, part in zip(sizes, outer, strict=True)]
    try:
        if len(counts) == 1:
            return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
    except AssertionError:  # some devices of a slice, which are no box in its network
        return np.asarray(devices).reshape(sizes)


def spec(names: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """Returns the partition spec of an array with these logical axis names.

    Raises:
      KeyError: there is no rule for a name; replicating such an axis silently could hide a mistake.

    Examples:
      >>> jm.sharding.spec(("layers", "embed", "mlp"), jm.sharding.FSDP_TP) == jax.P(None, "data", "model")
      True
    """
    for name in names:
        if name is not None and name not in rules:
            raise KeyError(f"the rules have no entry for the axis {name!r}; add {{{name!r}: None}} to replicate it")
    return PartitionSpec(*(None if name is None else rules[name] for name in names))


def _mesh_axes(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()


def _of_positions(at: int, partition: PartitionSpec, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The partition of a position table whose rows are along axis `at`."""
    split = _mesh_axes(partition[at])
    if shape[at] % math.prod(mesh.shape[axis] for axis in split):
        return PartitionSpec(*partition[:at], None, *partition[at + 1 :])
    rest = [tuple(axis for axis in _mesh_axes(entry) if axis not in split) or None for entry in partition]
    return PartitionSpec(*rest[:at], partition[at], *rest[at + 1 :]) if split else partition


def _named_sharding(
    path: str, names: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: Rules
) -> NamedSharding:
    try:
        partition = spec(names, rules)
    except KeyError as error:
        raise KeyError(f"{path}: {error.args[0]}") from None
    for name, entry in zip(names, partition, strict=True):
        if unknown := [axis for axis in _mesh_axes(entry) if axis not in mesh.shape]:
            raise ValueError(
                f"the rules map {name!r} to the mesh axis {unknown[0]!r}, but the mesh has {dict(mesh.shape)}; "
                f"add it with make_mesh({{..., {unknown[0]!r}: 1}})"
            )
    if POSITIONS in names:
        partition = _of_positions(names.index(POSITIONS), partition, shape, mesh)
    used: list[str] = []
    for name, size, entry in zip(names, shape, partition, strict=True):
        axes = _mesh_axes(entry)
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if size % shards:
            raise ValueError(
                f"{path}: the axis {name!r} has size {size}, which is not divisible by {shards} devices (mesh axes "
                f"{axes}); choose another mesh, or {{**rules, {name!r}: None}}"
            )
        used += axes
    if len(set(used)) < len(used):
        raise ValueError(f"{path}: the rules map two of its axes {names} to the same mesh axis: {partition}")
    return NamedSharding(mesh, partition)


def shardings(model: nn.Module, mesh: Mesh, rules: Rules) -> dict[str, Any]:
    """Returns a tree like the parameters with a `NamedSharding` for each array.

    Raises:
      KeyError: there is no rule for a logical axis name.
      ValueError: the mesh lacks an axis, a dimension is not divisible, or two axes of an array share a mesh axis.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> rules = {**jm.sharding.FSDP_TP, "vocab": "model"}
      >>> shardings = jm.sharding.shardings(model, jm.sharding.make_mesh({"data": -1, "model": 2}), rules)
      >>> shardings["transformer"]["wte"]["embedding"].spec == jax.P("model", "data")
      True
    """
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    return unflatten({p: _named_sharding(p, names[p], shape.shape, mesh, rules) for p, shape in shapes.items()})


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Returns the sharding of arrays [B, ...] whose batch is split as the rules say.

    Examples:
      >>> sharding = jm.sharding.batch_sharding(jm.sharding.make_mesh({"data": -1}), jm.sharding.DP)
      >>> ids = jax.device_put(np.ones((8, 4), int), sharding)
    """
    return NamedSharding(mesh, spec(("batch",), rules))


def batch_parts(sharding: NamedSharding) -> int:
    """Returns the number of parts that `batch_sharding` splits a batch into."""
    (axes,) = sharding.spec
    return math.prod(sharding.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def addressable_rows(mesh: Mesh, rules: Rules, size: int) -> np.ndarray:
    """Returns the rows of a global batch of `size` examples that this process has to load, for `training.place`.

    These are the rows that its devices hold: all of them where the batch is not split over processes, as with a model
    axis that spans hosts. The rows of two processes may overlap or alternate.

    Returns:
      Indices in ascending order, int [rows].

    Raises:
      ValueError: the size is not divisible among the devices of the batch axis.

    Examples:
      >>> mesh, rules = jm.sharding.make_mesh({"data": -1}), jm.sharding.FSDP
      >>> rows = jm.sharding.addressable_rows(mesh, rules, 16)
      >>> batch = training.place({"input_ids": np.ones((16, 4), int)[rows]}, mesh, rules, size=16)
    """
    return rows_of_process(batch_sharding(mesh, rules), size, jax.process_index())


def rows_of_process(sharding: NamedSharding, size: int, process: int) -> np.ndarray:
    """Returns the rows of arrays [size, ...] that the devices of a process hold; see `addressable_rows`."""
    if size % (parts := batch_parts(sharding)):
        raise ValueError(
            f"a batch of {size} examples does not divide among the {parts} devices of the batch axis; make the batch "
            f"size a multiple of {parts}"
        )
    held = np.zeros(size, bool)
    for device, (rows, *_) in sharding.devices_indices_map((size,)).items():
        if device.process_index == process:  # type: ignore[attr-defined]  # JAX declares an unknown class
            held[rows] = True
    return np.flatnonzero(held)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Context manager in which models also constrain their activations (batch and length) by the rules.

    Examples:
      >>> mesh, rules = jm.sharding.make_mesh({"data": -1}), jm.sharding.FSDP
      >>> model, params = jm.load("openai-community/gpt2", mesh=mesh, rules=rules)
      >>> with jm.sharding.use(mesh, rules):
      ...     logits = model.apply({"params": params}, np.ones((8, 4), int)).logits
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


def check_placement(mesh: Mesh | None, rules: Rules | None) -> None:
    """Checks the arguments `mesh` and `rules` of a function.

    Raises:
      ValueError: one is None and the other is not.
      TypeError: not a mesh, or not a mapping.
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules must be passed together; pass both or neither")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a mesh such as jm.sharding.make_mesh returns, got {brief(mesh)}")
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(f"rules must be a mapping such as jm.sharding.FSDP_TP, got {brief(rules)}")
