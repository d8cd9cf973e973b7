"""Models on meshes with explicit axes (`AxisType.Explicit`, the default of `jax.make_mesh`).

There JAX wants to be told the sharding of every result that it cannot infer, such as that of an embedding lookup. A
model leaves it to the compiler: its axes are automatic inside, and its results are split like its inputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec, reshard, use_abstract_mesh


def with_automatic_axes(
    function: Callable[..., Any], variables: Mapping[str, Any], args: tuple, options: Mapping[str, Any]
) -> Any:
    """`function(variables, *args, **options)` with the explicit axes of the mesh in context made automatic.

    Returns:
      The result. Where an axis is explicit, its arrays [B, ...] or [L, B, ...] are split over the batch as the inputs
      are, and the others are replicated.
    """
    mesh = jax.sharding.get_abstract_mesh()
    explicit = [name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit]
    if not explicit:
        return function(variables, *args, **options)
    inputs, treedef = jax.tree.flatten((args, dict(options)))
    at = [i for i, leaf in enumerate(inputs) if isinstance(leaf, jax.Array | np.ndarray)]
    size, names = _batch([inputs[i] for i in at])

    def run(variables, arrays):
        with use_abstract_mesh(mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto))):
            variables, arrays = reshard((variables, arrays), PartitionSpec())
            found = dict(zip(at, arrays, strict=True))
            args, options = treedef.unflatten([found.get(i, leaf) for i, leaf in enumerate(inputs)])
            result = function(variables, *args, **options)
        return jax.tree.map(lambda x: reshard(x, _split(x.shape, size, names)), result)

    return run(variables, [inputs[i] for i in at])


def _batch(arrays: list[Any]) -> tuple[int, Any]:
    """The size of the batch, and the mesh axes that split it."""
    for x in arrays:
        spec = jax.typeof(x).sharding.spec
        if x.ndim and spec[0] is not None:
            return x.shape[0], spec[0]
    return 0, None


def _split(shape: tuple[int, ...], size: int, names: Any) -> PartitionSpec:
    axis = next((i for i, n in enumerate(shape[:2]) if n == size), None)
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, names)
