"""The train state, and the shardings of its arrays."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training.dynamic_scale import DynamicScale
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules
from jaxmodels.sharding import shardings as parameter_shardings

NOT_DECAYED = ("bias", "scale")

# Path of a parameter, such as "transformer/wte/embedding" -> whether it is trained.
Trainable = Callable[[str], bool]


class TrainState(struct.PyTreeNode):
    """Parameters, optimizer state, step counter and loss scale.

    Attributes:
      step: int32 scalar, number of steps; includes skipped steps (`make_step`).
      params: the model's parameters, as from `init` or `load`.
      opt_state: the Optax state of the parameters that are trained; per-parameter state is sharded like its parameter.
      loss_scale: Flax's `DynamicScale`, by which the loss is multiplied in float16; None does not scale.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    loss_scale: DynamicScale | None = None


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    trainable: Trainable | None = None,
    loss_scale: DynamicScale | None = None,
) -> TrainState:
    """Returns the shapes, dtypes and shardings of a train state without computing it, e.g. to restore a checkpoint.

    Args:
      model: the model.
      optimizer: Optax optimizer.
      mesh: device mesh; requires `rules`.
      rules: sharding rules; requires `mesh`.
      trainable: see `init_state`.
      loss_scale: see `init_state`.

    Raises:
      ValueError: only one of mesh and rules, a mesh that does not match the model, or no parameter is trainable.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> mesh, rules = jm.sharding.make_mesh({"data": -1}), jm.sharding.FSDP
      >>> state = training.abstract_state(model, optax.adamw(1e-4), mesh=mesh, rules=rules)
      >>> state.params["transformer"]["wte"]["embedding"].sharding.spec == jax.P(None, "data")
      True
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules must be passed together, or neither")
    shapes = abstract(model)
    if mesh is not None and rules is not None:
        shapes = jax.tree.map(_with_sharding, shapes, parameter_shardings(model, mesh, rules))
    return _abstract_state(optimizer, shapes, trainable, loss_scale)


def init_state(
    optimizer: optax.GradientTransformation,
    params: Any,
    *,
    trainable: Trainable | None = None,
    loss_scale: DynamicScale | None = None,
) -> TrainState:
    """Returns the state before the first step, on the devices of the parameters.

    The parameters are not copied: the first training step donates their memory.

    Args:
      optimizer: Optax optimizer.
      params: the parameters.
      trainable: which parameters are trained; the others have no optimizer state. None trains all. The training step
        takes the same function.
      loss_scale: `flax.training.dynamic_scale.DynamicScale()` for a model that computes in float16, whose small
        gradients would otherwise become 0 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

    Raises:
      ValueError: no parameter is trainable.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> state = training.init_state(optax.adamw(1e-4), jm.init(model, jax.random.key(0)))
      >>> int(state.step)
      0
    """
    like = _abstract_state(optimizer, params, trainable, loss_scale)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)

    def init(params: Any) -> tuple[jax.Array, Any, DynamicScale | None]:
        # Strongly typed, like the results of a step: weak types would make the step compile twice.
        opt_state = optimizer.init(partition(params, trainable)[0])
        opt_state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), opt_state)
        return jnp.int32(0), opt_state, _strongly_typed(loss_scale)

    out_shardings = (shardings.step, shardings.opt_state, shardings.loss_scale)
    step, opt_state, loss_scale = jax.jit(init, out_shardings=out_shardings)(params)
    # Committed to their devices, like the results of a step: uncommitted arrays would make the first step compile
    # separately.
    params = jax.device_put(params, shardings.params)
    return TrainState(step, params, opt_state, loss_scale)


def partition(params: Any, trainable: Trainable | None) -> tuple[Any, Any]:
    """Splits the parameters into those that are trained and the others: two trees with None where the other has one."""
    if trainable is None:
        return params, jax.tree.map(lambda _: None, params)

    def choose(trained: bool) -> Any:
        return jax.tree.map_with_path(
            lambda path, leaf: leaf if bool(trainable(_name(path))) is trained else None, params
        )

    return choose(True), choose(False)


def combine(trained: Any, frozen: Any) -> Any:
    """Inverse of `partition`."""
    return jax.tree.map(lambda t, f: f if t is None else t, trained, frozen, is_leaf=lambda leaf: leaf is None)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _strongly_typed(loss_scale: DynamicScale | None) -> DynamicScale | None:
    if loss_scale is None:
        return None
    return loss_scale.replace(fin_steps=jnp.int32(loss_scale.fin_steps), scale=jnp.float32(loss_scale.scale))


def weight_decay_mask(params: Any) -> Any:
    """Returns a tree of bools: True for matrices and embeddings, False for biases and the scales of norms.

    By name, not by rank, because a bias of stacked layers has the shape [L,D], or [L,H,K] in attention.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> mask = training.weight_decay_mask(jm.init(model, jax.random.key(0)))
      >>> mask["transformer"]["ln_f"], mask["transformer"]["wte"]
      ({'bias': False, 'scale': False}, {'embedding': True})
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def not_finite(params: Any) -> str | None:
    """Returns the path of a parameter that contains infinity or NaN; None if there is none."""
    for (path, _), finite in zip(jax.tree.leaves_with_path(params), jax.device_get(_finite(params)), strict=True):
        if not finite:
            return _name(path)
    return None


@jax.jit
def _finite(params: Any) -> list[jax.Array]:
    # The maximum is NaN if any element is; three times faster than testing each element.
    return [jnp.isfinite(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(params)]


def _with_sharding(leaf: Any, sharding: Sharding | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _abstract_state(
    optimizer: optax.GradientTransformation, params: Any, trainable: Trainable | None, loss_scale: DynamicScale | None
) -> TrainState:
    """Returns the abstract state for parameters (arrays, or shapes with shardings)."""
    trained, _ = partition(params, trainable)
    if not jax.tree.leaves(trained):
        raise ValueError("trainable is False for every parameter; there is nothing to train")
    leaves = jax.tree.leaves_with_path(params)
    first = leaves[0][1].sharding
    replicated = NamedSharding(first.mesh, PartitionSpec()) if isinstance(first, NamedSharding) else first
    parameters = dict(leaves)

    def with_sharding(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        # The path of per-parameter state ends with the path of the parameter, whatever wraps it (chains, masks,
        # partitions), and its shape is that of the parameter unless it is factored.
        owner = next((parameters[path[i:]] for i in range(len(path)) if path[i:] in parameters), None)
        return _with_sharding(leaf, replicated if owner is None or owner.shape != leaf.shape else owner.sharding)

    opt_state = jax.tree.map_with_path(with_sharding, jax.eval_shape(optimizer.init, trained))
    params = jax.tree.map(lambda leaf: _with_sharding(leaf, leaf.sharding), params)
    step: Any = _with_sharding(jax.ShapeDtypeStruct((), jnp.int32), replicated)
    scale = jax.tree.map(lambda leaf: _with_sharding(leaf, replicated), jax.eval_shape(_strongly_typed, loss_scale))
    return TrainState(step, params, opt_state, scale)
