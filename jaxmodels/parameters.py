"""The parameter tree of a model: its shapes, the logical names of its axes, and its first values."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta

from jaxmodels.messages import brief

Path = tuple[str, ...]


@partial(jax.jit, static_argnums=0)
def _init(model: nn.Module, key: jax.Array) -> Any:
    return model.init({"params": key}, **model.dummy_inputs())["params"]


def _boxed(model: nn.Module) -> Any:
    # Of a jitted function, so that JAX remembers it: tracing GPT-2 takes 0.1 s, as long as reading its weights. A real
    # key, a process's first, would take nearly as long again; its shape is enough.
    return _init.eval_shape(model, jax.eval_shape(lambda: jax.random.key(0)))


def abstract(model: nn.Module) -> dict:
    """The tree with a `jax.ShapeDtypeStruct` in every place; nothing is computed."""
    return meta.unbox(_boxed(model))


def logical_axes(model: nn.Module) -> dict:
    """The same tree with the logical names of the axes, e.g. ("layers", "embed", "mlp")."""

    def names(leaf):
        return leaf.names if isinstance(leaf, meta.Partitioned) else (None,) * leaf.ndim

    return jax.tree.map(names, _boxed(model), is_leaf=lambda x: isinstance(x, meta.Partitioned))


def initial(model: nn.Module, key: jax.Array) -> dict:
    """Fresh parameters by the reference's rules (docs/parity.md, C11), unsharded and traceable."""
    return meta.unbox(_init(model, key))


def is_key(key: Any) -> bool:
    """A random key alone, typed or not."""
    if not isinstance(key, jax.Array | np.ndarray):
        return False
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.shape == () if typed else key.dtype == np.uint32 and key.ndim == 1


def check_key(name: str, key: Any) -> None:
    """Raises TypeError where that is no random key."""
    if not is_key(key):
        raise TypeError(f"{name} is a random key such as jax.random.key(0), got {brief(key)}")


def check_tree(name: str, params: Any) -> None:
    """Raises TypeError where that is no tree of parameters."""
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"{name} is a nested dict of arrays, as jm.load and jm.init give it, got {brief(params)}")


def flatten(tree: Mapping) -> dict[str, Any]:
    """A nested dict as {"a/b/c": leaf}; tuples count as leaves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict:
    """The inverse of `flatten`."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
