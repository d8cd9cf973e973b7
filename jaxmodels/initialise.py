"""Fresh parameters, made where they belong."""

import flax.linen as nn
import jax
from jax.sharding import Mesh

from jaxmodels.messages import brief, reject_unknown_keywords
from jaxmodels.parameters import check_key, initial
from jaxmodels.sharding import Rules, check_placement, shardings


@reject_unknown_keywords(
    {"seed": "key=jax.random.key(seed)", "rng": "it is called key=", "dtype": "it is the model's param_dtype"}
)
def init(model: nn.Module, key: jax.Array, *, mesh: Mesh | None = None, rules: Rules | None = None) -> dict:
    """Parameters by the reference's initialisation rules, as a plain nested dict.

    Args:
      key: a `jax.random.key`.
      mesh, rules: make every parameter on its shards; no device ever holds the whole model.

    Raises:
      TypeError: no model, key, mesh or table. ValueError: a mesh without rules, or one that does not fit.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "dummy_inputs"):
        raise TypeError(f"init makes the parameters of a model such as jm.GPT2Model(config), got {brief(model)}")
    check_key("key", key)
    check_placement(mesh, rules)
    places = None if mesh is None else shardings(model, mesh, rules)
    return jax.jit(lambda key: initial(model, key), out_shardings=places)(key)
