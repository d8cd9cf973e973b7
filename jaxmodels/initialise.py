"""Fresh parameters, made where they belong."""

import flax.linen as nn
import jax
from jax.sharding import Mesh

from jaxmodels.parameters import initial
from jaxmodels.sharding import Rules, shardings


def init(model: nn.Module, key: jax.Array, *, mesh: Mesh | None = None, rules: Rules | None = None) -> dict:
    """Parameters by the reference's initialisation rules, as a plain nested dict.

    Args:
      key: a `jax.random.key`.
      mesh, rules: make every parameter on its shards; no device ever holds the whole model.
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules go together: give both or neither")
    places = None if mesh is None else shardings(model, mesh, rules)
    return jax.jit(lambda key: initial(model, key), out_shardings=places)(key)
