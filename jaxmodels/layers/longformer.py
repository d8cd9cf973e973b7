"""Longformer's attention (Beltagy et al., 2020, arXiv:2004.05150), as LED's encoder has it: local and wide.

Every token attends to the tokens around it and to the few global ones; that is one softmax, under a mask with a window
and global keys. The global tokens attend to all, with projections of their own; their rows take that result.
Reference: transformers/models/led/modeling_led.py, `LEDEncoderSelfAttention` (docs/parity.md, L5 to L8).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.attention import Attention, split_of_activations
from jaxmodels.layers.linear import Initializer
from pallas_kernels import Mask, attention, band_weights
from pallas_kernels.dropout import drop
from pallas_kernels.reference import softmax


class Projection(nn.Module):
    """Kernel [D,H,K] and bias [H,K] of a projection whose product is left to the caller."""

    num_heads: int
    head_dim: int
    kernel_init: Initializer
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, width: int, dtype) -> tuple[jax.Array, jax.Array]:
        heads = (self.num_heads, self.head_dim)
        init = nn.with_logical_partitioning(self.kernel_init, ("embed", "heads", "head_dim"))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("heads", "head_dim"))
        kernel = self.param("kernel", init, (width, *heads), self.param_dtype)
        return kernel.astype(dtype), self.param("bias", zeros, heads, self.param_dtype).astype(dtype)


class LongformerAttention(Attention):
    """Self attention under a mask with a window; the mask's global tokens (`global_at`) also attend to everything.

    The probabilities, where they are asked for, are a pair: the local ones [B,H,T,G+w+1] (see `band_weights`; rows of
    global and of padding tokens are zero) and the global ones [B,H,T,G], None where the mask has no global tokens.
    """

    def attend(self, x, query, key, value, mask: Mask, bias, scale, output_weights):
        dropout = self._dropout()
        out = attention(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            scale=scale,
            dropout=dropout,
            implementation=self.implementation,
            split=split_of_activations(),
        )
        if mask.key_valid is not None:
            out = jnp.where(mask.key_valid[:, :, None, None], out, 0)
        # Always made, so that the parameters do not depend on the mask.
        wide = [self._projection(name)(x.shape[-1], self.dtype) for name in ("global_q", "global_k", "global_v")]
        local = band_weights(query, key, mask=mask, scale=scale, dropout=dropout) if output_weights else None
        if mask.global_at is None:
            return out, None if local is None else (self._without(local, mask), None)
        rows, weights = self._wide(x, *wide, mask, scale, output_weights)
        batch = jnp.arange(x.shape[0])[:, None]
        out = out.at[batch, mask.global_at].set(rows.astype(out.dtype), mode="drop")
        return out, None if local is None else (self._without(local, mask), weights.swapaxes(2, 3).astype(x.dtype))

    def _projection(self, name: str) -> Projection:
        return Projection(self.num_heads, self.head_dim, self.kernel_init, self.param_dtype, name=name)

    @staticmethod
    def _without(weights, mask: Mask):
        """The rows of padding and of global tokens, whose own attention is elsewhere, as zeros."""
        for flags in (None if mask.key_valid is None else ~mask.key_valid, mask.key_global):
            weights = weights if flags is None else jnp.where(flags[:, None, :, None], 0, weights)
        return weights

    def _wide(self, x, q, k, v, mask: Mask, scale, asked: bool):
        """What the global tokens see: [B,G,H,K], and their probabilities [B,H,G,T] (zero in slots without a token).

        With few global tokens, projecting all T tokens to keys and values would cost more than all the rest. The
        products can be taken in another order: the query goes through the key's kernel to the width of the model and
        meets the tokens themselves, and the mixed tokens go through the value's kernel. (The key's bias adds the same
        to every score of a row, which the softmax does not see.)
        """
        tokens, there = x.shape[1], mask.global_at < x.shape[1]
        x = x.astype(self.dtype)
        own = jnp.take_along_axis(x, jnp.minimum(mask.global_at, tokens - 1)[:, :, None], axis=1)
        queries = jnp.einsum("bgd,dhk->bghk", own, q[0]) + q[1]
        scale = self.head_dim**-0.5 if scale is None else scale
        if mask.global_at.shape[1] * self.num_heads < x.shape[-1]:
            out, weights = self._absorbed(x, queries, k[0], *v, mask, scale)
        else:
            keys, values = (jnp.einsum("btd,dhk->bthk", x, kernel) + shift for kernel, shift in (k, v))
            out, weights = super().attend(x, queries, keys, values, Mask(key_valid=mask.key_valid), None, scale, asked)
        return out, None if weights is None else jnp.where(there[:, None, :, None], weights, 0)

    def _absorbed(self, x, queries, k, v, v_bias, mask: Mask, scale):
        queries = jnp.einsum("bghk,dhk->bghd", queries * jnp.asarray(scale, self.dtype), k)
        scores = jnp.einsum("bghd,btd->bhgt", queries, x, preferred_element_type=jnp.float32)
        weights = softmax(scores, None if mask.key_valid is None else mask.key_valid[:, None, None])
        if dropout := self._dropout():
            weights = drop(
                weights, dropout.seed(), dropout.rate, jnp.arange(scores.shape[2]), jnp.arange(scores.shape[3])
            )
        mixing = weights.astype(self.dtype)
        mixed = jnp.einsum("bhgt,btd->bghd", mixing, x)
        total = mixing.sum(axis=-1).swapaxes(1, 2)[..., None]  # one, but for dropout
        return jnp.einsum("bghd,dhk->bghk", mixed, v) + total * v_bias, weights
