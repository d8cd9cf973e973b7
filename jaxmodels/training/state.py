"""The train state, and the shardings of its arrays."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules
from jaxmodels.sharding import shardings as parameter_shardings

NOT_DECAYED = ("bias", "scale")


class TrainState(struct.PyTreeNode):
    """Parameters, optimizer state and step counter.

    Attributes:
      step: int32 scalar, number of steps; includes skipped steps (`make_step`).
      params: the model's parameters, as from `init` or `load`.
      opt_state: the Optax state; per-parameter state is sharded like its parameter.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def abstract_state(
    model: nn.Module, optimizer: optax.GradientTransformation, *, mesh: Mesh | None = None, rules: Rules | None = None
) -> TrainState:
    """Returns the shapes, dtypes and shardings of a train state without computing it, e.g. to restore a checkpoint.

    Args:
      model: the model.
      optimizer: Optax optimizer.
      mesh: device mesh; requires `rules`.
      rules: sharding rules; requires `mesh`.

    Raises:
      ValueError: only one of mesh and rules, or a mesh that does not match the model.
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules must be passed together, or neither")
    shapes = abstract(model)
    if mesh is not None and rules is not None:
        shapes = jax.tree.map(_with_sharding, shapes, parameter_shardings(model, mesh, rules))
    return _abstract_state(optimizer, shapes)


def init_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the state before the first step, on the devices of the parameters.

    The parameters are not copied: the first training step donates their memory.
    """
    like = _abstract_state(optimizer, params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)

    def init(params: Any) -> tuple[jax.Array, Any]:
        # Strongly typed, like the results of a step: weak types would make the step compile twice.
        return jnp.int32(0), jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(params))

    step, opt_state = jax.jit(init, out_shardings=(shardings.step, shardings.opt_state))(params)
    # Committed to their devices, like the results of a step: uncommitted arrays would make the first step compile
    # separately.
    params = jax.device_put(params, shardings.params)
    return TrainState(step, params, opt_state)


def weight_decay_mask(params: Any) -> Any:
    """Returns a tree of bools: True for matrices and embeddings, False for biases and the scales of norms.

    By name, not by rank, because a bias of stacked layers has the shape [L,D], or [L,H,K] in attention.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def not_finite(params: Any) -> str | None:
    """Returns the path of a parameter that contains infinity or NaN; None if there is none."""
    for (path, _), finite in zip(jax.tree.leaves_with_path(params), jax.device_get(_finite(params)), strict=True):
        if not finite:
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


@jax.jit
def _finite(params: Any) -> list[jax.Array]:
    # The maximum is NaN if any element is; three times faster than testing each element.
    return [jnp.isfinite(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(params)]


def _with_sharding(leaf: Any, sharding: Sharding | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _abstract_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """Returns the abstract state for parameters (arrays, or shapes with shardings)."""
    leaves = jax.tree.leaves_with_path(params)
    first = leaves[0][1].sharding
    replicated = NamedSharding(first.mesh, PartitionSpec()) if isinstance(first, NamedSharding) else first
    parameters = dict(leaves)

    def with_sharding(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        # The path of per-parameter state ends with the path of the parameter, whatever wraps it (chains, masks,
        # partitions), and its shape is that of the parameter unless it is factored.
        owner = next((parameters[path[i:]] for i in range(len(path)) if path[i:] in parameters), None)
        return _with_sharding(leaf, replicated if owner is None or owner.shape != leaf.shape else owner.sharding)

    opt_state = jax.tree.map_with_path(with_sharding, jax.eval_shape(optimizer.init, params))
    params = jax.tree.map(lambda leaf: _with_sharding(leaf, leaf.sharding), params)
    step: Any = _with_sharding(jax.ShapeDtypeStruct((), jnp.int32), replicated)
    return TrainState(step, params, opt_state)
