"""GPT-2's transformer (Radford et al., 2019; reference: transformers/models/gpt2/modeling_gpt2.py).

tokens -> word + position (+ type) embeddings -> pre-norm causal layers -> final norm.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.gpt2.config import GPT2Config
from jaxmodels.architectures.gpt2.weights import TABLE
from jaxmodels.architectures.inputs import (
    as_rows,
    check_ids,
    encoder_source,
    is_concrete,
    warn_of_unmasked_padding,
    words,
)
from jaxmodels.architectures.pruning import head_keywords, without_pruned
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.layer import FeedForward, Layer
from jaxmodels.layers.linear import Embedding, dropout, layer_norm, scaled_normal
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.stack import Stack
from jaxmodels.outputs import BaseModelOutputWithPastAndCrossAttentions


class GPT2PreTrainedModel(Model):
    """What the six classes share."""

    config_class = GPT2Config
    table = TABLE

    @property
    def cache_sizes(self) -> dict[str, int]:
        c = self.config
        return {"layers": c.n_layer, "heads": c.n_head, "head_dim": c.head_dim}

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens."""
        return self.config.n_positions

    @staticmethod
    def count_to_position(count: jax.Array) -> jax.Array:
        """Position of the count-th real token (1-based) of a padded row (docs/parity.md, G9); pads get 1."""
        return jnp.where(count > 0, count - 1, 1)


class GPT2Model(GPT2PreTrainedModel):
    """The transformer without a head."""

    def setup(self):
        c = self.config
        init = scaled_normal(c.initializer_range)
        self.wte = Embedding(c.vocab_size, c.n_embd, init, "vocab", self.dtype, self.param_dtype)
        self.wpe = Embedding(c.n_positions, c.n_embd, init, "length", self.dtype, self.param_dtype)
        self.h = Stack(self._layer, c.n_layer, self.remat, self.unroll)
        self.ln_f = layer_norm(c.layer_norm_epsilon, self.dtype, self.param_dtype)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        head_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple:
        """Runs the transformer.

        Args:
          input_ids: int [B,T], or [B,choices,T] (each choice is a row).
          attention_mask: [B,T], 1 for real tokens; with a cache see `Cache.reserve`.
          token_type_ids: int [B,T], looked up in the *word* table, as in the reference.
          position_ids: int [B,T]; default: counted from the start of the cache. Never derived from the mask.
          head_mask: [H] or [L,H], multiplies the heads' attention probabilities.
          inputs_embeds: [B,T,D] instead of input_ids.
          encoder_hidden_states: [B,S,D] for the cross attention of a config with `add_cross_attention`.
          encoder_attention_mask: [B,S] or [B,T,S].
          cache: from `init_cache` or an earlier output.
          output_attentions, output_hidden_states, return_dict: default to the config's.

        Raises:
          ValueError, TypeError: an argument of the wrong shape or type, or outside its table.
        """
        c = self.config
        x, lead = self._embed(input_ids, inputs_embeds, token_type_ids, position_ids, cache)
        batch, length, _ = x.shape
        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        if attention_mask is not None:  # [B,choices,T] as rows, like the ids
            attention_mask = jnp.asarray(attention_mask).reshape(-1, jnp.shape(attention_mask)[-1])
        visible, cache = self_visibility(attention_mask, cache, batch, length, causal=True)
        source, cross = encoder_source(
            c, x, encoder_hidden_states, encoder_attention_mask, cache, initializing=self.is_initializing()
        )
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        shared = {"source": source, "output_attentions": attentions, **visible, **cross}
        per_layer = head_keywords(c, head_mask)
        scale = c.head_dim**-0.5 if c.scale_attn_weights else 1.0
        if c.scale_attn_by_inverse_layer_idx:
            per_layer["scale"] = scale / jnp.arange(1, c.n_layer + 1, dtype=jnp.float32)
        else:
            shared["scale"] = scale

        out = self.h(x, shared=shared, per_layer=per_layer, cache=cache, output_hidden_states=hidden)
        x = self.ln_f(out.last)
        # The reference puts the states after the final norm last, not those of the last layer (docs/parity.md, G11).
        states = jnp.concatenate([out.hidden_states, x[None]]) if hidden else None
        result = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x.reshape(*lead, *x.shape[1:]),
            cache=out.cache,
            hidden_states=states,
            attentions=without_pruned(c, out.attentions),
            cross_attentions=out.cross_attentions,
        )
        return self.answer(result, return_dict)

    def _layer(self) -> Layer:
        c = self.config
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inits = {
            "kernel_init": scaled_normal(c.initializer_range),
            "out_init": scaled_normal(c.initializer_range, residual_layers=c.n_layer),
        }
        attention = partial(
            Attention,
            c.n_head,
            c.head_dim,
            dropout=c.attn_pdrop,
            implementation=self.attention,
            **inits,
            **kinds,
        )
        return Layer(
            attention=attention,
            cross_attention=partial(attention, cross=True) if c.add_cross_attention else None,
            feed_forward=partial(FeedForward, c.mlp_dim, c.activation_function, **inits, **kinds),
            norm=partial(layer_norm, c.layer_norm_epsilon, self.dtype, self.param_dtype),
            dropout=c.resid_pdrop,
            parent=None,
        )

    def _embed(self, input_ids, inputs_embeds, token_type_ids, position_ids, cache):
        """Sum of the embeddings [B,T,D], and the leading shape that the caller gave."""
        c = self.config
        x, lead = words(self.wte, c, input_ids, inputs_embeds, ranks=(2, 3))
        x, length = x.astype(self.dtype), x.shape[1]
        x = x + self.wpe(self._positions(position_ids, x.shape[0], length, cache))
        if token_type_ids is not None:
            types = check_ids("token_type_ids", token_type_ids, c.vocab_size, "the vocabulary", ranks=(1, 2, 3))
            x = x + self.wte(as_rows("token_type_ids", types, x.shape[0], length))
        return dropout(self, x, c.embd_pdrop), lead

    def _positions(self, position_ids, batch, length, cache):
        size = self.config.n_positions
        if position_ids is not None:
            ids = check_ids("position_ids", position_ids, size, "the position table", ranks=(1, 2, 3))
            return as_rows("position_ids", ids, batch, length)
        places = jnp.arange(length) if cache is None else cache.places(length)
        last = int(places.max()) + 1 if cache is not None and is_concrete(places) else length
        if last > size:
            raise ValueError(f"{last} tokens are more than the {size} positions of this model (n_positions); cut them")
        return places[None]
