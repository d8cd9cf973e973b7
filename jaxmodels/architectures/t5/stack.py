"""The encoder and the decoder of T5 (reference: transformers/models/t5/modeling_t5.py, `T5Stack`)."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.architectures.t5.relative import RelativePositions
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.gated import GatedFeedForward
from jaxmodels.layers.layer import FeedForward, Layer
from jaxmodels.layers.linear import Initializer, dropout, scaled_normal
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.rms_norm import rms_norm
from jaxmodels.layers.stack import Stack
from jaxmodels.outputs import BaseModelOutputWithPastAndCrossAttentions
from pallas_kernels import DenseBias, ToeplitzBias


class T5Stack(Configured):
    """The encoder or the decoder.

    In float16 the residual stream and the feed-forward layers are float32, because trained T5s overflow there; the
    reference keeps each `wo` in float32, which has the same effect (`_keep_in_fp32_modules`).

    Attributes:
      decodes: causal, and with cross attention.
    """

    config: T5Config
    decodes: bool = False

    def setup(self):
        c = self.config
        self.relative_attention_bias = RelativePositions(
            c.num_heads,
            c.relative_attention_num_buckets,
            c.relative_attention_max_distance,
            not self.decodes,
            scaled_normal(c.initializer_factor * c.d_model**-0.5),
            self.param_dtype,
        )
        self.block = Stack(self._layer, self.num_layers, self.remat, self.unroll)
        self.final_layer_norm = rms_norm(**self._norm)

    @property
    def num_layers(self) -> int:
        return self.config.num_decoder_layers if self.decodes else self.config.num_layers

    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask,
        heads: dict[str, jax.Array],
        source: dict[str, object],
        cache: Cache | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Word vectors [B,T,D] -> states [B,T,D].

        Args:
          heads: keyword of a layer -> head mask [L,H].
          source: what `source_keywords` gives, for the decoder.
        """
        c = self.config
        batch, length, _ = x.shape
        visible, cache = self_visibility(attention_mask, cache, batch, length, causal=self.decodes)
        biases = [self._distances(length, cache)]
        if "bias" in visible:  # of a mask [B,T,T], or of branches
            biases.append(visible.pop("bias"))
        own = {"scale": 1.0, "bias": tuple(biases), "output_attentions": output_attentions}
        out = self.block(
            dropout(self, x.astype(self._stream), c.dropout_rate),
            shared={**own, **visible, **source},
            per_layer=heads,
            cache=cache,
            output_hidden_states=output_hidden_states,
        )
        states = dropout(self, self.final_layer_norm(out.last), c.dropout_rate)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states,
            cache=out.cache,
            # The reference puts the states after the final norm and dropout last, not those of the last layer.
            hidden_states=jnp.concatenate([out.hidden_states, states[None]]) if output_hidden_states else None,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )

    def _distances(self, length: int, cache: Cache | None) -> ToeplitzBias | DenseBias:
        """The bias of the new tokens over all keys."""
        if cache is not None and cache.branches is not None:  # all at one place
            keys = cache.branches.place(jnp.arange(cache.capacity))
            return DenseBias(self.relative_attention_bias(keys - cache.places(1))[:, None])
        keys, start = (length, None) if cache is None else (cache.capacity, cache.length)
        return ToeplitzBias(self.relative_attention_bias(ToeplitzBias.relative_positions(length, keys, start)))

    @property
    def _stream(self) -> jnp.dtype:
        """Type of the residual stream."""
        return jnp.dtype(jnp.float32 if jnp.dtype(self.dtype) == jnp.float16 else self.dtype)

    @property
    def _norm(self) -> dict[str, object]:
        c = self.config
        return {"epsilon": c.layer_norm_epsilon, "first": c.initializer_factor, **self.kinds}

    def _layer(self) -> Layer:
        c, factor = self.config, self.config.initializer_factor
        attention = partial(
            Attention,
            c.num_heads,
            c.d_kv,
            kernel_init=_projections(factor * (c.d_model * c.d_kv) ** -0.5, factor * c.d_model**-0.5),
            out_init=scaled_normal(factor * (c.num_heads * c.d_kv) ** -0.5),
            use_bias=False,
            dropout=c.dropout_rate,
            implementation=self.attention,
            **self.kinds,
        )
        feed_forward = partial(
            GatedFeedForward if c.is_gated_act else partial(FeedForward, use_bias=False),
            c.d_ff,
            c.dense_act_fn,
            kernel_init=scaled_normal(factor * c.d_model**-0.5),
            out_init=scaled_normal(factor * c.d_ff**-0.5),
            dropout=c.dropout_rate,
            dtype=self._stream,
            param_dtype=self.param_dtype,
        )
        return Layer(
            attention=attention,
            cross_attention=partial(attention, cross=True) if self.decodes else None,
            feed_forward=feed_forward,
            norm=partial(rms_norm, **self._norm),
            dropout=c.dropout_rate,
            parent=None,
        )


def _projections(query: float, others: float) -> Initializer:
    """Normal kernels [D,H,K] of queries, [D,2,H,K] of keys and values, [D,3,H,K] of all three.

    Queries start smaller by sqrt(K), in place of a scale on the scores.
    """

    def init(key, shape, dtype):
        parts = shape[1] if len(shape) == 4 else 1
        stds = {1: [query], 2: [others, others], 3: [query, others, others]}[parts]
        return jax.random.normal(key, shape, dtype) * jnp.asarray(stds, dtype)[:, None, None]

    return init
