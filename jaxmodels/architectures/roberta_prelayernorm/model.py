"""RoBERTa-PreLayerNorm: RoBERTa with the norms in front (reference: .../modeling_roberta_prelayernorm.py).

The checkpoints are those of Wettig et al., "Should You Mask 15% in Masked Language Modeling?", 2022 (arXiv:2202.08005).
tokens -> word + type + position embeddings -> pre-norm layers -> final norm (-> pooler).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.bert_like import BertEmbeddings, bert_layer, linear
from jaxmodels.architectures.inputs import (
    as_rows,
    check_ids,
    encoder_source,
    is_concrete,
    warn_of_unmasked_padding,
    words,
)
from jaxmodels.architectures.pruning import head_keywords, without_pruned
from jaxmodels.architectures.roberta_prelayernorm.config import RobertaPreLayerNormConfig
from jaxmodels.architectures.roberta_prelayernorm.weights import TABLE
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.linear import layer_norm
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.stack import Stack
from jaxmodels.outputs import BaseModelOutputWithPoolingAndCrossAttentions


class RobertaPreLayerNormPreTrainedModel(Model):
    """What the seven classes share."""

    config_class = RobertaPreLayerNormConfig
    table = TABLE

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens: positions are counted from pad_token_id + 1."""
        c = self.config
        return c.max_position_embeddings - (0 if c.is_relative else c.pad_token_id + 1)

    @property
    def cache_sizes(self) -> dict[str, int]:
        c = self.config
        if not c.is_decoder:
            raise ValueError(f"{type(self).__name__} has a cache as a decoder only: load it with is_decoder=True")
        return {"layers": c.num_hidden_layers, "heads": c.num_attention_heads, "head_dim": c.head_dim}

    def count_to_position(self, count: jax.Array) -> jax.Array:
        """Position of the count-th real token (1-based) of a row; padding (0) gets its own (docs/parity.md, R2)."""
        return count + self.config.pad_token_id


class RobertaPreLayerNormModel(RobertaPreLayerNormPreTrainedModel):
    """The transformer without a head: an encoder, or with `is_decoder` a decoder.

    add_pooling_layer: give the tanh projection of the first token's state as `pooler_output`.
    """

    add_pooling_layer: bool = True

    def setup(self):
        c = self.config
        self.embeddings = BertEmbeddings(c, unused_position=c.pad_token_id, **self.kinds)
        layer = partial(bert_layer, c, attention=self.attention, pre_norm=True, **self.kinds)
        self.encoder = Stack(layer, c.num_hidden_layers, self.remat, self.unroll)
        self.norm = layer_norm(c.layer_norm_eps, self.dtype, self.param_dtype)
        if self.add_pooling_layer:
            self.pooler = linear(c, c.hidden_size, **self.kinds)

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
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple:
        """Runs the transformer.

        Args:
          input_ids: int [B,T].
          attention_mask: [B,T], 1 for real tokens, or [B,T,T]; with a cache see `Cache.reserve`.
          token_type_ids: int [B,T] or [1,T], default 0.
          position_ids: int [B,T] or [1,T]; default: real tokens (ids other than the pad id, whatever the mask says) are
            counted from pad_token_id + 1, all tokens of inputs_embeds are.
          head_mask: [H] or [L,H], multiplies the heads' attention probabilities, also those of the cross attention.
          inputs_embeds: [B,T,D] instead of input_ids.
          encoder_hidden_states: [B,S,D] for the cross attention of a config with `add_cross_attention`.
          encoder_attention_mask: [B,S] or [B,T,S].
          cache: from `init_cache` or an earlier output.
          output_attentions, output_hidden_states, return_dict: default to the config's.

        Raises:
          ValueError, TypeError: an argument of the wrong shape or type, or outside its table. Where ids are traced
            nothing can be said of them: a position beyond the table makes NaN.
        """
        c = self.config
        x, _ = words(self.embeddings.word_embeddings, c, input_ids, inputs_embeds)
        batch, length, _ = x.shape
        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        visible, reserved = self_visibility(attention_mask, cache, batch, length, causal=c.is_decoder)
        x = self.embeddings(
            x,
            self._types(token_type_ids, batch, length),
            self._positions(position_ids, input_ids, batch, length, cache),
        )
        if c.is_relative and reserved is not None:
            # Distances beyond the table would pass for the longest one in it: make them visible instead.
            x = jnp.where((reserved.valid.sum(axis=1) > self.max_tokens)[:, None, None], jnp.nan, x)
        source, cross = encoder_source(
            c, x, encoder_hidden_states, encoder_attention_mask, reserved, initializing=self.is_initializing()
        )
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        if c.is_relative and reserved is not None and reserved.branches is not None:
            keys = reserved.branches.place(jnp.arange(reserved.capacity))
            visible["distances"] = reserved.places(1) - keys
        out = self.encoder(
            x,
            shared={"source": source, "output_attentions": attentions, **visible, **cross},
            per_layer=head_keywords(c, head_mask),
            cache=reserved,
            output_hidden_states=hidden,
        )
        states = self.norm(out.last)
        result = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states,
            pooler_output=jnp.tanh(self.pooler(states[:, 0])) if self.add_pooling_layer else None,
            cache=out.cache,
            # The reference keeps the states before the final norm, unlike GPT-2's (docs/parity.md, R4).
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if hidden else None,
            attentions=without_pruned(c, out.attentions),
            cross_attentions=out.cross_attentions,
        )
        return self.answer(result, return_dict)

    def _types(self, token_type_ids, batch: int, length: int) -> jax.Array:
        if token_type_ids is None:
            return jnp.zeros((1, length), jnp.int32)
        size = self.config.type_vocab_size
        ids = check_ids("token_type_ids", token_type_ids, size, "the token type table", (1, 2))
        return as_rows("token_type_ids", ids, batch, length)

    def _positions(self, position_ids, input_ids, batch: int, length: int, cache: Cache | None) -> jax.Array:
        c = self.config
        if position_ids is not None:
            size = c.max_position_embeddings
            ids = check_ids("position_ids", position_ids, size, "the position table", (1, 2))
            return as_rows("position_ids", ids, batch, length)
        past = jnp.zeros((), jnp.int32) if cache is None else cache.length
        if input_ids is None:
            counts = past + jnp.arange(1, length + 1)[None]
        else:
            real = jnp.asarray(input_ids) != c.pad_token_id
            counts = jnp.where(real, past + jnp.cumsum(real, axis=1), 0)
        longest = int(np.asarray(counts).max()) if is_concrete(counts) else length
        if longest > self.max_tokens:
            raise ValueError(
                f"{longest} tokens are more than this model takes, {self.max_tokens} (max_position_embeddings="
                f"{c.max_position_embeddings}, counted from pad_token_id + 1); cut them: truncation=True in the "
                "tokenizer's call. Longer rows of padding need position_ids under jit"
            )
        return self.count_to_position(counts)
