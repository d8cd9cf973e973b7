"""Parameter trees of models: shapes, logical axis names, initial values, and flattening."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta

from jaxmodels.messages import brief


@partial(jax.jit, static_argnums=0)
def _init(model: nn.Module, key: jax.Array) -> Any:
    return model.init({"params": key}, **model.dummy_inputs())["params"]


def _boxed_shapes(model: nn.Module) -> Any:
    # Evaluated on the jitted function, so that JAX caches the trace: tracing GPT-2 takes 0.1 s, as long as reading its
    # weights. The shape of a key suffices; creating the first key of a process would take nearly as long again.
    return _init.eval_shape(model, jax.eval_shape(lambda: jax.random.key(0)))


def abstract(model: nn.Module) -> dict[str, Any]:
    """Returns the parameter tree with a `jax.ShapeDtypeStruct` for each array, without computing anything."""
    return meta.unbox(_boxed_shapes(model))


def logical_axes(model: nn.Module) -> dict[str, Any]:
    """Returns the parameter tree with the logical axis names of each array, e.g. ("layers", "embed", "mlp")."""

    def names(leaf: Any) -> tuple[str | None, ...]:
        return leaf.names if isinstance(leaf, meta.Partitioned) else (None,) * leaf.ndim

    return jax.tree.map(names, _boxed_shapes(model), is_leaf=lambda x: isinstance(x, meta.Partitioned))


def initial(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Returns initial parameters as in the reference (docs/parity.md, C11). Unsharded; can be traced."""
    return meta.unbox(_init(model, key))


def is_key(key: Any) -> bool:
    """Whether the value is a single PRNG key, typed or raw."""
    if not isinstance(key, jax.Array | np.ndarray):
        return False
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.shape == () if typed else key.dtype == np.uint32 and key.ndim == 1


def check_key(name: str, key: Any) -> None:
    """Raises TypeError if the value is not a single PRNG key."""
    if not is_key(key):
        raise TypeError(f"{name} must be a PRNG key such as jax.random.key(0), got {brief(key)}")


def check_tree(name: str, params: Any) -> None:
    """Raises TypeError if the value is not a parameter tree."""
    if not isinstance(params, Mapping) or not params:
        raise TypeError(
            f"{name} must be a nested dict of arrays, as returned by jm.load and jm.init, got {brief(params)}"
        )


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a nested dict to {"a/b/c": leaf}; tuples are leaves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
