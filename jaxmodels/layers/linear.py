"""Matrix products, norms and embeddings whose parameters carry the logical name of every axis."""

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.platform import TRANSPOSED, TransposedKernel, flatten_batch, matmul
from jaxmodels.layers.remat import named

Initializer = Callable[..., jax.Array]


class Linear(nn.Module):
    """`y[..., *out] = x[..., *in] @ kernel[*in, *out] + bias[*out]`, over any number of named axes.

    Keeping heads as an axis of the kernel (instead of a flat width that is reshaped afterwards) lets a sharding rule
    split heads whatever the layout.

    Attributes:
      features: sizes of the output axes.
      axes: logical names of the input axes, then of the output axes.
      kernel_init: initializer, called with the kernel's shape.
      use_bias: or a tuple of bools, which entries of the first output axis have one: the parameter holds those only.
      dtype: of the computation; param_dtype: of the parameters.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    kernel_init: Initializer
    use_bias: bool | tuple[bool, ...] = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @overload
    def __call__(self, x: jax.Array, separate: Literal[False] = ...) -> jax.Array: ...

    @overload
    def __call__(self, x: jax.Array, separate: Literal[True]) -> tuple[jax.Array, ...]: ...

    @nn.compact
    def __call__(self, x: jax.Array, separate: bool = False) -> Any:
        """[..., *in] -> [..., *out]; separate: a tuple over the first output axis, each computed by its own product."""
        n_in = len(self.axes) - len(self.features)
        shape = x.shape[x.ndim - n_in :] + self.features
        kernel: Any = self.get_variable("params", TRANSPOSED)
        transposed = kernel is not None
        if not transposed:
            init = nn.with_logical_partitioning(self.kernel_init, self.axes)
            kernel = self.param("kernel", init, shape, self.param_dtype)
        bias: Any = None
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[n_in:])
            biased = None if self.use_bias is True else np.flatnonzero(self.use_bias)
            features = self.features if biased is None else (len(biased), *self.features[1:])
            bias = self.param("bias", zeros, features, self.param_dtype)
            bias = bias if biased is None else jnp.zeros(self.features, bias.dtype).at[biased].set(bias)

        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if transposed:
            kernel = TransposedKernel(kernel)
        if separate:
            kernels = jnp.moveaxis(kernel, n_in, 0)
            outputs = tuple(matmul(x, kernels[i], n_in) for i in range(len(kernels)))
        else:
            outputs = (matmul(x, kernel, n_in),)
        if self.use_bias:
            outputs = tuple(y + b for y, b in zip(outputs, bias if separate else (bias,), strict=True))
        outputs = named(outputs, self.name)
        return outputs if separate else outputs[0]


# Rematerialized: only the input is saved for the backward pass.
_LayerNorm = nn.remat(nn.LayerNorm, prevent_cse=False)
_RMSNorm = nn.remat(nn.RMSNorm, prevent_cse=False)


def layer_norm(
    epsilon: float, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, name: str | None = None
) -> nn.LayerNorm:
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


def rms_norm(
    epsilon: float,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    initial_scale: float = 1.0,
    name: str | None = None,
) -> nn.RMSNorm:
    """RMSNorm over the model width with float32 statistics: scales and does not shift (Zhang and Sennrich, 2019,
    arXiv:1910.07467)."""
    return _RMSNorm(
        epsilon=epsilon,
        dtype=dtype,
        param_dtype=param_dtype,
        scale_init=nn.with_logical_partitioning(nn.initializers.constant(initial_scale), ("embed",)),
        name=name,
    )


class Embedding(nn.Module):
    """A table `[size, D]` that is looked up by ids, and multiplied with hidden states where the output head is tied.

    Attributes:
      axis: logical name of the table's first axis.
      padding: an id whose vector is initialized to zero and gets no gradient from lookups (torch's `padding_idx`).
    """

    size: int
    features: int
    kernel_init: Initializer
    axis: str = "vocab"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
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

    def rows(self, first: int, count: int) -> jax.Array:
        """The vectors [count, D] of consecutive ids, by a slice: nothing is sent where rows are split like its use."""
        return jax.lax.slice_in_dim(self.embedding, first, first + count).astype(self.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """Logits [..., size] in float32 of hidden states x [..., D] against every row."""
        table, states = self.embedding.astype(self.dtype), flatten_batch(x.astype(self.dtype), x.ndim - 1)
        dims = (((states.ndim - 1,), (1,)), ((), ()))
        logits = jax.lax.dot_general(states, table, dims, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], self.size)


class VocabProjection(Linear):
    """Logits over a vocabulary, from the token embeddings where it is tied to them, else from a kernel of its own."""

    tied: bool = False

    def __call__(self, x: jax.Array, embeddings: Embedding) -> jax.Array:  # type: ignore[override]
        """Hidden states [...,D] -> float32 [...,V]."""
        return embeddings.attend(x) if self.tied else super().__call__(x).astype(jnp.float32)


def _without_row(init: Initializer, row: int) -> Initializer:
    return lambda key, shape, dtype: init(key, shape, dtype).at[row].set(0)


def dropout(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    """Inverted dropout, active if and only if the caller gave `rngs={"dropout": key}`."""
    if rate == 0.0 or not module.has_rng("dropout"):
        return x
    # In float32 with jax_enable_x64 too: another precision would be another mask.
    keep = jax.random.bernoulli(module.make_rng("dropout"), jnp.float32(1.0 - rate), x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def scaled_normal(std: float, residual_layers: int | None = None) -> Initializer:
    """Normal initializer; projections onto the residual stream divide by sqrt(2 L) (GPT-2 paper, section 2.3)."""
    return nn.initializers.normal(std if residual_layers is None else std / math.sqrt(2 * residual_layers))
