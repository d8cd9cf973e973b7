"""Longformer's attention (Beltagy et al., 2020, arXiv:2004.05150), as in LED's encoder: local and global.

Every token attends to the tokens around it and to the few global tokens: one softmax, under a mask with a window and
global keys. The global tokens attend to all tokens, with separate projections; their outputs are replaced by that.
Reference: transformers/models/led/modeling_led.py, `LEDEncoderSelfAttention` (docs/parity.md, L5 to L8).
"""

import jax
import jax.numpy as jnp
from flax.core import meta

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.inputs import AttentionInputs, PerLayer
from jaxmodels.layers.linear import Linear
from jaxmodels.layers.platform import products_replaced
from pallas_kernels import Mask, attention, drop_probabilities, masked_softmax, sliding_window_weights


class LongformerAttention(Attention):
    """Self attention under a mask with a window; the mask's global tokens (`global_at`) also attend to all tokens.

    The probabilities are a pair: the local ones [B,H,T,G+w+1] (see `sliding_window_weights`; zero for global and
    padding tokens) and the global ones [B,H,T,G], None where the mask has no global tokens.
    """

    def attend(self, x, query, key, value, inputs: AttentionInputs):
        mask, options = inputs.mask, {**self._options(inputs), "return_weights": False}
        out = attention(query, key, value, **options)
        if mask.key_valid is not None:
            out = jnp.where(mask.key_valid[:, :, None, None], out, 0)
        # Always initialised, so that the parameters do not depend on the mask.
        q, k, v = (self._projection(name) for name in ("global_q", "global_k", "global_v"))
        if self.is_initializing():
            q(x), k(x), v(x)
        local = None
        scale = inputs.scale
        assert not isinstance(scale, PerLayer)  # the stack hands each layer its slice
        if inputs.return_weights:
            local = sliding_window_weights(query, key, mask=mask, scale=scale, dropout=options["dropout"])
        if mask.global_at is None:
            return out, None if local is None else (self._local_only(local, mask), None)
        states, weights = self._attend_globally(x, q, k, v, inputs)
        batch = jnp.arange(x.shape[0])[:, None]
        out = out.at[batch, mask.global_at].set(states.astype(out.dtype), mode="drop")
        if local is None:
            return out, None
        return out, (self._local_only(local, mask), weights.swapaxes(2, 3).astype(x.dtype))

    def _splits_length(self, inputs: AttentionInputs) -> bool:
        return True  # the queries of the global tokens meet all tokens where these are

    def _projection(self, name: str) -> Linear:
        shape, axes = (self.num_heads, self.head_dim), ("embed", "heads", "head_dim")
        return self._linear(shape, axes, self.kernel_init, name, (True,))

    @staticmethod
    def _local_only(weights, mask: Mask):
        """Zero for queries that are padding or global tokens, whose attention is not local."""
        for flags in (None if mask.key_valid is None else ~mask.key_valid, mask.key_global):
            weights = weights if flags is None else jnp.where(flags[:, None, :, None], 0, weights)
        return weights

    def _attend_globally(self, x, q, k, v, inputs: AttentionInputs):
        """Of the global tokens, the weighted values [B,G,H,K] and the probabilities [B,H,G,T] (zero in unused slots).

        With few global tokens, projecting all T tokens to keys and values would cost more than all the rest. The
        products can be taken in another order: the query is multiplied by the key kernel to the width of the model and
        meets the hidden states themselves, and the weighted states are multiplied by the value kernel. (The key's bias
        adds the same to all scores of a query, which the softmax ignores.)
        """
        mask, slots = inputs.mask, inputs.mask.global_at
        assert slots is not None
        tokens, used = x.shape[1], slots < x.shape[1]
        x = x.astype(self.dtype)
        states = jnp.take_along_axis(x, jnp.minimum(slots, tokens - 1)[:, :, None], axis=1)
        queries = q(states)
        scale = self.head_dim**-0.5 if inputs.scale is None else inputs.scale
        if slots.shape[1] * self.num_heads < x.shape[-1] and not products_replaced():
            (k_kernel, _), (v_kernel, v_bias) = self._weights(k), self._weights(v)
            out, weights = self._absorbed(x, queries, k_kernel, v_kernel, v_bias, mask, scale)
        else:
            everywhere = AttentionInputs(
                Mask(key_valid=mask.key_valid), scale=scale, return_weights=inputs.return_weights
            )
            out, weights = super().attend(x, queries, k(x), v(x), everywhere)
        return out, None if weights is None else jnp.where(used[:, None, :, None], weights, 0)

    def _weights(self, projection: Linear) -> tuple[jax.Array, jax.Array]:
        """Its kernel [D,H,K] and bias [H,K]."""
        kernel, bias = (meta.unbox(projection.get_variable("params", name)) for name in ("kernel", "bias"))
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def _absorbed(self, x, queries, k, v, v_bias, mask: Mask, scale):
        queries = jnp.einsum("bghk,dhk->bghd", queries * jnp.asarray(scale, self.dtype), k)
        scores = jnp.einsum("bghd,btd->bhgt", queries, x, preferred_element_type=jnp.float32)
        weights = masked_softmax(scores, None if mask.key_valid is None else mask.key_valid[:, None, None])
        if dropout := self._dropout():
            weights = drop_probabilities(
                weights, dropout.seed(), dropout.rate, jnp.arange(scores.shape[2]), jnp.arange(scores.shape[3])
            )
        mixing = weights.astype(self.dtype)
        mixed = jnp.einsum("bhgt,btd->bghd", mixing, x)
        total = mixing.sum(axis=-1).swapaxes(1, 2)[..., None]  # one, but for dropout
        return jnp.einsum("bghd,dhk->bghk", mixed, v) + total * v_bias, weights
