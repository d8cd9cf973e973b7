"""What training carries from step to step, and where its arrays live."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules, shardings

NOT_DECAYED = ("bias", "scale")


class TrainState(struct.PyTreeNode):
    """Parameters, optimizer state and the number of steps done.

    Attributes:
      step: int32 scalar; steps that were skipped count (`make_step`).
      params: the model's parameters, as from `init` or `load`.
      opt_state: the optax state; what it keeps per parameter is sharded as the parameter is.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def abstract_state(
    model: nn.Module, optimizer: optax.GradientTransformation, *, mesh: Mesh | None = None, rules: Rules | None = None
) -> TrainState:
    """The state's shapes, dtypes and shardings; nothing is computed. A checkpoint is restored into it.

    Raises:
      ValueError: one of mesh and rules without the other, or a mesh that does not fit the model.
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules go together: give both or neither")
    shapes = abstract(model)
    if mesh is not None:
        shapes = jax.tree.map(_placed, shapes, shardings(model, mesh, rules))
    return _around(optimizer, shapes)


def init_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """The state before the first step, on the devices where the parameters are.

    The parameters are taken over, not copied: the first training step gives their memory away.
    """
    like = _around(optimizer, params)
    places = jax.tree.map(lambda leaf: leaf.sharding, like)

    def rest(params):
        # Strongly typed, as the results of a step are: what a Python number left behind would make it compile twice.
        return jnp.int32(0), jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(params))

    step, opt_state = jax.jit(rest, out_shardings=(places.step, places.opt_state))(params)
    # Bound to their devices, as the results of a step are: a first step with loose ones would compile for itself alone.
    params = jax.device_put(params, places.params)
    return TrainState(step, params, opt_state)


def weight_decay_mask(params: Any) -> Any:
    """A tree of bools: True for matrices and embeddings, False for biases and the scales of norms.

    By name and not by rank: stacked layers give a bias [L,D], and attention gives it [L,H,K].
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def not_finite(params: Any) -> str | None:
    """The path of a parameter with infinite numbers or NaNs; None: there is none."""
    for (path, _), finite in zip(jax.tree.leaves_with_path(params), jax.device_get(_finite(params)), strict=True):
        if not finite:
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


@jax.jit
def _finite(params) -> list[jax.Array]:
    # The largest is NaN where any is; a third of the time of looking at each.
    return [jnp.isfinite(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(params)]


def _placed(leaf, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _around(optimizer, params) -> TrainState:
    """The abstract state around parameters (arrays, or shapes with shardings)."""
    leaves = jax.tree.leaves_with_path(params)
    first = leaves[0][1].sharding
    whole = NamedSharding(first.mesh, PartitionSpec()) if isinstance(first, NamedSharding) else first
    like = dict(leaves)

    def place(path, leaf):
        # What an optimizer keeps for a parameter has the parameter's path at the end of its own, whatever wraps it
        # (chains, masks, partitions), and its shape, unless it is factored.
        owner = next((like[path[i:]] for i in range(len(path)) if path[i:] in like), None)
        return _placed(leaf, whole if owner is None or owner.shape != leaf.shape else owner.sharding)

    opt_state = jax.tree.map_with_path(place, jax.eval_shape(optimizer.init, params))
    params = jax.tree.map(lambda leaf: _placed(leaf, leaf.sharding), params)
    return TrainState(_placed(jax.ShapeDtypeStruct((), jnp.int32), whole), params, opt_state)
