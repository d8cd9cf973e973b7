"""The feed-forward layer with a gate (Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.activations import activation
from jaxmodels.layers.linear import Initializer, Linear, dropout


class GatedFeedForward(nn.Module):
    """D -> 2 x F -> D without biases: the first F values, through the activation, multiply the second.

    One kernel [D,2,F] holds both projections.

    Attributes:
      features: F.
      dropout: rate on the products.
    """

    features: int
    activation: str
    kernel_init: Initializer
    out_init: Initializer
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,T,D] -> [B,T,D]."""
        common = (False, self.dtype, self.param_dtype)
        up = Linear((2, self.features), ("embed", None, "mlp"), self.kernel_init, *common, name="gate_up")
        down = Linear((x.shape[-1],), ("mlp", "embed"), self.out_init, *common, name="down")
        gate, values = jnp.moveaxis(up(x), -2, 0)
        return down(dropout(self, activation(self.activation)(gate) * values, self.dropout))
