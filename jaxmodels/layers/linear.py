"""Matrix products, norms and embeddings whose parameters carry the logical name of every axis."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.products import TURNED, product, tokens_together, turned_product

Initializer = Callable[..., jax.Array]


class Linear(nn.Module):
    """`y[..., *out] = x[..., *in] @ kernel[*in, *out] + bias[*out]`, over any number of named axes.

    Keeping heads as an axis of the kernel (instead of a flat width that is reshaped afterwards) lets a sharding rule
    split heads without a word about layouts.

    Attributes:
      features: sizes of the output axes.
      axes: logical names of the input axes, then of the output axes.
      kernel_init: initialiser, called with the kernel's shape.
      dtype: compute type; param_dtype: storage type.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    kernel_init: Initializer
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, apart: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        """[..., *in] -> [..., *out]; `apart`: a tuple over the first output axis, each a product of its own."""
        n_in = len(self.axes) - len(self.features)
        shape = x.shape[x.ndim - n_in :] + self.features
        if self.has_variable("params", TURNED):
            multiply, kernel = turned_product, self.get_variable("params", TURNED)
        else:
            init = nn.with_logical_partitioning(self.kernel_init, self.axes)
            multiply, kernel = product, self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[n_in:])
            bias = self.param("bias", zeros, self.features, self.param_dtype)

        def apply(kernel, bias):
            y = multiply(x.astype(self.dtype), kernel.astype(self.dtype), n_in)
            return y if bias is None else y + bias.astype(self.dtype)

        if not apart:
            return apply(kernel, bias)
        kernels = jnp.moveaxis(kernel, n_in, 0)
        return tuple(apply(kernels[i], None if bias is None else bias[i]) for i in range(len(kernels)))


# For its gradient it keeps what it was given, and nothing from in between.
_LayerNorm = nn.remat(nn.LayerNorm, prevent_cse=False)


def layer_norm(epsilon: float, dtype=jnp.float32, param_dtype=jnp.float32, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm over the model width with float32 statistics and the two-pass variance of the reference."""
    return _LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=param_dtype,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed",)),
        name=name,
    )


class Embedding(nn.Module):
    """A table `[size, D]`: looked up by ids, and, where the head is tied to it, multiplied with hidden states.

    Attributes:
      axis: logical name of the table's first axis.
      padding: an id whose row starts as zeros and is not trained by looking it up (torch's `padding_idx`).
    """

    size: int
    features: int
    kernel_init: Initializer
    axis: str = "vocab"
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    padding: int | None = None

    def setup(self):
        init = self.kernel_init if self.padding is None else _without_row(self.kernel_init, self.padding)
        init = nn.with_logical_partitioning(init, (self.axis, "embed"))
        self.embedding = self.param("embedding", init, (self.size, self.features), self.param_dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """ids [...] -> [..., D]. An id outside the table gives NaN: under jit nothing can be raised."""
        ids = jnp.where(ids < 0, self.size, ids.astype(jnp.int32))  # a negative index would count from the end
        rows = jnp.take(self.embedding, ids, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)
        if self.padding is None:
            return rows
        return jnp.where((ids == self.padding)[..., None], jax.lax.stop_gradient(rows), rows)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits [..., size] in float32 of hidden states x [..., D] against every row."""
        table, states = self.embedding.astype(self.dtype), tokens_together(x.astype(self.dtype), x.ndim - 1)
        dims = (((states.ndim - 1,), (1,)), ((), ()))
        logits = jax.lax.dot_general(states, table, dims, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], self.size)


def _without_row(init: Initializer, row: int) -> Initializer:
    return lambda key, shape, dtype: init(key, shape, dtype).at[row].set(0)


def dropout(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    """Inverted dropout, active if and only if the caller gave `rngs={"dropout": key}`."""
    if rate == 0.0 or not module.has_rng("dropout"):
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def scaled_normal(std: float, residual_layers: int | None = None) -> Initializer:
    """Normal initialiser; projections onto the residual stream divide by sqrt(2 L) (GPT-2 paper, section 2.3)."""
    return nn.initializers.normal(std if residual_layers is None else std / math.sqrt(2 * residual_layers))
