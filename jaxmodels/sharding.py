"""From logical axis names to a mesh: rule tables, and the shardings that they give a model's parameters.

A rule table says, for every logical name, the mesh axis (or axes) that it is split over, or None. "pjit" is `jax.jit`
with these shardings.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmodels.messages import brief
from jaxmodels.parameters import abstract, flatten, logical_axes, unflatten

NAMES = ("batch", "length", "embed", "heads", "head_dim", "mlp", "vocab", "layers")

Rules = Mapping[str, str | tuple[str, ...] | None]


def _table(**rules) -> Rules:
    return MappingProxyType({name: rules.get(name) for name in NAMES})


# Batch split over "data", parameters whole on every device.
DP = _table(batch="data")
# Parameters split over "data" too, along the model width, which every matrix has.
FSDP = _table(batch="data", embed="data")
# Heads and feed-forward split over "model" besides. The vocabulary stays whole: GPT-2's 50257 words divide by no mesh.
# After resize_token_embeddings(..., pad_to_multiple_of=128): {**FSDP_TP, "vocab": "model"}.
FSDP_TP = _table(batch="data", embed="data", heads="model", mlp="model")


def make_mesh(axes: Mapping[str, int], devices=None) -> Mesh:
    """A mesh, e.g. {"data": 4, "model": 2}; one size may be -1: all devices that are left.

    Axes are `AxisType.Auto`: the compiler places what the rules leave open.

    Raises:
      ValueError: a size that is none, no axes or no devices, or sizes that do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not axes or not devices or not all(type(size) is int and size >= -1 and size for size in axes.values()):
        raise ValueError(
            f"a mesh has a size of at least 1 for each axis, or -1 for one of them, got {brief(dict(axes))} for "
            f"{len(devices)} devices"
        )
    known = math.prod(size for size in axes.values() if size != -1)
    sizes = tuple(len(devices) // known if size == -1 else size for size in axes.values())
    if list(axes.values()).count(-1) > 1 or math.prod(sizes) != len(devices):
        raise ValueError(f"a mesh {brief(dict(axes))} does not fit {len(devices)} devices; one size may be -1")
    return jax.make_mesh(sizes, tuple(axes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def spec(names: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """The partition of an array whose axes have these logical names.

    Raises:
      KeyError: a rule is missing. A table that is silent about an axis would replicate it unseen.
    """
    for name in names:
        if name is not None and name not in rules:
            raise KeyError(f"the rules have no entry for the axis {name!r}; say {{{name!r}: None}} to leave it whole")
    return PartitionSpec(*(None if name is None else rules[name] for name in names))


def _check(path: str, names, shape, mesh: Mesh, rules: Rules) -> NamedSharding:
    partition = spec(names, rules)
    used: list[str] = []
    for name, size, axes in zip(names, shape, partition, strict=True):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        if unknown := [axis for axis in axes if axis not in mesh.shape]:
            raise ValueError(
                f"the rules put {name!r} on the mesh axis {unknown[0]!r}, but the mesh has {dict(mesh.shape)}; "
                f"make_mesh({{..., {unknown[0]!r}: 1}}) is enough"
            )
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            raise ValueError(
                f"{path}: the axis {name!r} has size {size}, which {parts} devices (mesh axes {axes}) do not divide; "
                f"choose another mesh, or {{**rules, {name!r}: None}}"
            )
        used += axes
    if len(set(used)) < len(used):
        raise ValueError(f"{path}: the rules split two of its axes {names} over the same mesh axis: {partition}")
    return NamedSharding(mesh, partition)


def shardings(model: nn.Module, mesh: Mesh, rules: Rules) -> dict:
    """A tree like the parameters with a `NamedSharding` in every place.

    Raises:
      KeyError: a logical name has no rule.
      ValueError: the mesh lacks an axis, does not divide a dimension, or two axes of one array share a mesh axis.
    """
    shapes, names = flatten(abstract(model)), flatten(logical_axes(model))
    return unflatten({p: _check(p, names[p], shape.shape, mesh, rules) for p, shape in shapes.items()})


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """For arrays [B, ...]: rows split as the rules say."""
    return NamedSharding(mesh, spec(("batch",), rules))


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Inside, tracing a model constrains its activations by the rules too (batch and length of the residual stream)."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


def check_placement(mesh: Mesh | None, rules: Rules | None) -> None:
    """Raises ValueError where one is given without the other, TypeError where they are no mesh and no table."""
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules go together: give both or neither")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh is from jm.sharding.make_mesh, got {brief(mesh)}")
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(f"rules are a table such as jm.sharding.FSDP_TP, got {brief(rules)}")
