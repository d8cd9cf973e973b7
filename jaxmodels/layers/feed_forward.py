"""The feed-forward layers, and the activation functions that configs name (reference: transformers/activations.py)."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.arrays import Hidden
from jaxmodels.layers.linear import Initializer, Linear, dropout
from jaxmodels.layers.platform import CPU_CHUNK, LONG_CHUNK, feed_forward_chunk

Activation = Callable[[jax.Array], jax.Array]


def _gelu_fast(x):
    return 0.5 * x * (1.0 + jnp.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _gelu_tanh(x):
    return jax.nn.gelu(x, approximate=True)


def _gelu_erf(x):
    return jax.nn.gelu(x, approximate=False)


def _gelu_accurate(x):
    # jax.nn.gelu's tanh form uses the same constant, written out in the reference.
    return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _laplace(x, mu=0.707107, sigma=0.282095):
    """Approximates the squared ReLU (Ma et al., 2022, https://arxiv.org/abs/2209.10655)."""
    return 0.5 * (1.0 + jax.scipy.special.erf((x - mu) / (sigma * math.sqrt(2.0))))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": _gelu_erf,
    "gelu_10": lambda x: jnp.clip(_gelu_erf(x), -10.0, 10.0),
    "gelu_accurate": _gelu_accurate,
    "gelu_fast": _gelu_fast,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu_erf,
    "gelu_pytorch_tanh": _gelu_tanh,
    "laplace": _laplace,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Activation:
    """The function of that name, rematerialized: only its input is saved for the backward pass (gelu has five more).

    Raises:
      ValueError: an unknown name; the message lists those that exist.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; expected one of {', '.join(sorted(ACTIVATIONS))}")
    return jax.checkpoint(ACTIVATIONS[name], prevent_cse=False)


class FeedForward(nn.Module):
    """D -> F -> D with an activation in between.

    Attributes:
      features: F.
      chunk: tokens of a sequence that are computed at a time, so that [B,T,F] never exists whole (docs/parity.md, C5);
        0: `long_chunk` and `cpu_chunk` decide.
      dropout: rate after the activation.
      long_chunk: tokens of a sequence at a time where chunk is 0. cpu_chunk: tokens of the whole batch, on a CPU.
    """

    features: int
    activation: str
    kernel_init: Initializer
    out_init: Initializer
    use_bias: bool = True
    chunk: int = 0
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    long_chunk: int = LONG_CHUNK
    cpu_chunk: int = CPU_CHUNK

    @nn.compact
    def __call__(self, x: Hidden) -> jax.Array:
        """[B,T,D] -> [B,T,D].

        Raises:
          ValueError: a chunk that does not divide T.
        """
        up = self._up()
        down = self._linear((x.shape[-1],), ("mlp", "embed"), self.out_init, "down")
        if self.chunk and x.shape[1] % self.chunk:
            raise ValueError(
                f"chunk_size_feed_forward={self.chunk} does not divide the {x.shape[1]} tokens; pad them, or pass 0"
            )

        shape, chunk = x.shape, self.chunk
        if not chunk:
            flat, chunk = feed_forward_chunk(shape, self.long_chunk, self.cpu_chunk)
            x = x.reshape(flat)
        # A symbolic length stays whole.
        cuts = range(chunk, x.shape[1], chunk) if isinstance(x.shape[1], int) else ()
        act, parts = activation(self.activation), jnp.split(x, list(cuts), axis=1)
        parts = [down(dropout(self, self._activate(act, up(part)), self.dropout)) for part in parts]
        return jnp.concatenate(parts, axis=1).reshape(shape)

    def _up(self) -> Linear:
        return self._linear((self.features,), ("embed", "mlp"), self.kernel_init, "up")

    def _activate(self, act: Activation, x: jax.Array) -> jax.Array:
        return act(x)

    def _linear(self, features, axes, init, name: str) -> Linear:
        return Linear(features, axes, init, self.use_bias, self.dtype, self.param_dtype, name=name)


class GatedFeedForward(FeedForward):
    """D -> 2 x F -> D: activation(gate) * values (Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202).

    One kernel [D,2,F] holds both projections.
    """

    def _up(self) -> Linear:
        return self._linear((2, self.features), ("embed", None, "mlp"), self.kernel_init, "gate_up")

    def _activate(self, act: Activation, x: jax.Array) -> jax.Array:
        gate, values = jnp.moveaxis(x, -2, 0)
        return act(gate) * values
