"""Initialisation of model parameters, sharded if a mesh is given."""

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from jaxmodels.messages import brief, reject_unknown_keywords
from jaxmodels.parameters import check_key, initial
from jaxmodels.sharding import Rules, check_placement, shardings


@reject_unknown_keywords(
    {"seed": "pass key=jax.random.key(seed)", "rng": "it is called key=", "dtype": "it is the model's param_dtype"}
)
def init(model: nn.Module, key: jax.Array, *, mesh: Mesh | None = None, rules: Rules | None = None) -> dict[str, Any]:
    """Initialises the parameters of a model as the reference does.

    Args:
      model: the model.
      key: a `jax.random.key`.
      mesh, rules: create every parameter on its shards, so that no device ever holds the whole model.

    Returns:
      The parameters as a nested dict.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: a mesh without rules, or a mesh that does not fit.

    Examples:
      >>> config = jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
      >>> model = jm.GPT2LMHeadModel(config)
      >>> params = jm.init(model, jax.random.key(0))
      >>> params["transformer"]["wte"]["embedding"].shape
      (64, 16)
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "dummy_inputs"):
        raise TypeError(f"model must be a model of jaxmodels such as jm.GPT2Model(config), got {brief(model)}")
    check_key("key", key)
    check_placement(mesh, rules)
    out_shardings = None if mesh is None or rules is None else shardings(model, mesh, rules)
    return jax.jit(lambda key: initial(model, key), out_shardings=out_shardings)(key)
