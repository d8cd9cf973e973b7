"""BERT (Devlin et al., 2018, arXiv:1810.04805) and its relatives: embeddings -> layers (-> norm) (-> pooler, head).

Reference: transformers/models/bert/modeling_bert.py, which the others were copied from. Parameter paths:
`embeddings/...`, `encoder/layers/...` (the stack), `norm/...` (pre-norm families), `pooler/...`, and the heads' own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model, RunOptions
from jaxmodels.architectures.bert_like import BertLikeConfig
from jaxmodels.architectures.heads import classifier_layer
from jaxmodels.architectures.inputs import (
    as_batch,
    check_ids,
    check_segments,
    embed_inputs,
    head_masks,
    is_concrete,
    optional_encoder_inputs,
    positions_in_segments,
    remove_pruned_heads,
    warn_of_unmasked_padding,
)
from jaxmodels.arrays import HeadMask, Hidden, PaddingMask, TokenIds
from jaxmodels.layers.attention import RELATIVE_KEY_QUERY, Attention, RelativeKeys
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.feed_forward import FeedForward
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs, reserve, self_attention
from jaxmodels.layers.linear import Embedding, dropout, layer_norm, scaled_normal
from jaxmodels.layers.stack import Layer, Stack
from jaxmodels.outputs import BaseModelOutputWithPoolingAndCrossAttentions


class BertEmbeddings(nn.Module):
    """Token + type + position embeddings -> norm -> dropout.

    Attributes:
      padding_position: the position of padding, whose embedding stays zero (RoBERTa); None: there is none (BERT).
    """

    config: BertLikeConfig
    options: RunOptions
    padding_position: int | None = None

    def setup(self):
        c, init = self.config, scaled_normal(self.config.initializer_range)
        table = partial(Embedding, features=c.hidden_size, kernel_init=init, **self.options.dtypes)
        self.word_embeddings = table(c.vocab_size, padding=c.pad_token_id)
        self.position_embeddings = table(c.max_position_embeddings, axis="positions", padding=self.padding_position)
        self.token_type_embeddings = table(c.type_vocab_size, axis=None)
        self.norm = layer_norm(c.layer_norm_eps, **self.options.dtypes)

    def __call__(self, tokens: jax.Array, types: jax.Array, positions: jax.Array) -> jax.Array:
        """Token embeddings [B,T,D]; types, positions int [B,T] or [1,T] -> [B,T,D]."""
        x = tokens.astype(self.options.dtype) + self.token_type_embeddings(types)
        embedded = self.position_embeddings(positions)
        if not self.config.is_relative:  # a model with relative positions has this table too, and never adds it
            x = x + embedded
        return dropout(self, self.norm(x), self.config.hidden_dropout_prob)


class EncoderModel(Model[BaseModelOutputWithPoolingAndCrossAttentions]):
    """The transformer without a head: an encoder, or with `is_decoder` in the config a decoder.

    Attributes:
      add_pooling_layer: return the tanh projection of the first token's state as `pooler_output`.

    Class attributes:
      pre_norm: norms come before each part, and one after the last layer; else after each residual.
      counts_tokens: default positions count real tokens (RoBERTa), not padding as well (BERT).
      warns_of_padding: warn where padding comes without a mask.
    """

    auto_classes = ("AutoModel",)
    pre_norm: ClassVar[bool] = False
    counts_tokens: ClassVar[bool] = False
    warns_of_padding: ClassVar[bool] = True

    config: BertLikeConfig
    add_pooling_layer: bool = True

    def setup(self):
        c, options = self.config, self.options
        self.embeddings = BertEmbeddings(c, options, c.pad_token_id if self.counts_tokens else None)
        self.encoder = Stack(self.layer, c.num_hidden_layers, self.remat, self.unroll)
        if self.pre_norm:
            self.norm = layer_norm(c.layer_norm_eps, **options.dtypes)
        if self.add_pooling_layer:
            self.pooler = classifier_layer(c, c.hidden_size, options)

    @property
    def token_embeddings(self) -> Embedding:
        """The table that tied heads read."""
        return self.embeddings.word_embeddings

    def layer(self) -> Layer:
        """One layer."""
        c, init, dtypes = self.config, scaled_normal(self.config.initializer_range), self.options.dtypes
        inits: Mapping[str, Any] = {"kernel_init": init, "out_init": init}
        attention = partial(
            Attention,
            c.num_attention_heads,
            c.head_dim,
            dropout=c.attention_probs_dropout_prob,
            implementation=self.attention,
            **inits,
            **dtypes,
        )
        key_term = c.position_embedding_type == RELATIVE_KEY_QUERY
        relative = partial(RelativeKeys, c.max_position_embeddings, c.head_dim, key_term, init, self.param_dtype)
        chunk = c.chunk_size_feed_forward
        return Layer(
            attention=partial(attention, relative=relative if c.is_relative else None),
            cross_attention=partial(attention, cross=True) if c.add_cross_attention else None,
            feed_forward=partial(FeedForward, c.intermediate_size, c.hidden_act, chunk=chunk, **inits, **dtypes),
            norm=partial(layer_norm, c.layer_norm_eps, **dtypes),
            pre_norm=self.pre_norm,
            dropout=c.hidden_dropout_prob,
            parent=None,
        )

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        token_type_ids: TokenIds | None = None,
        position_ids: TokenIds | None = None,
        segment_ids: TokenIds | None = None,
        head_mask: HeadMask | None = None,
        inputs_embeds: Hidden | None = None,
        encoder_hidden_states: Hidden | None = None,
        encoder_attention_mask: PaddingMask | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Runs the transformer.

        Args:
          input_ids: int [B,T].
          attention_mask: [B,T], 1 for real tokens, or [B,T,T]; with a cache see `Cache.reserve`.
          token_type_ids: int [B,T] or [1,T], default 0.
          position_ids: int [B,T] or [1,T]; default: counted from 0 (BERT). In RoBERTa's families real tokens (ids other
            than the pad id, whatever the mask says) are counted from pad_token_id + 1; all tokens of inputs_embeds are.
          segment_ids: int [B,T], of rows into which several sequences are packed: each token sees the tokens of its own
            id, which follow each other, and default positions count in each segment. Without a cache.
          head_mask: [H] or [L,H], multiplies the heads' attention probabilities, also those of the cross attention.
          inputs_embeds: [B,T,D] instead of input_ids.
          encoder_hidden_states: [B,S,D] for the cross attention of a config with `add_cross_attention`.
          encoder_attention_mask: [B,S] or [B,T,S].
          cache: from `init_cache` or an earlier output.
          output_attentions, output_hidden_states, return_dict: default to the config's.

        Raises:
          ValueError, TypeError: an argument of the wrong shape or type, or outside its table. Where ids are traced, a
            position outside the table cannot be refused and gives NaN.
        """
        c = self.config
        x, _ = embed_inputs(self.embeddings.word_embeddings, c, input_ids, inputs_embeds)
        batch, length, _ = x.shape
        if self.warns_of_padding and attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        attention_mask = None if attention_mask is None else jnp.asarray(attention_mask)
        segments = check_segments(segment_ids, batch, length)
        positions = self._positions(position_ids, segments, input_ids, batch, length, cache)
        x = self.embeddings(x, self._types(token_type_ids, batch, length), positions)
        cache = reserve(cache, attention_mask, batch, length)
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
        self_mask, cross_mask = head_masks(c, head_mask)
        distances = None
        if c.is_relative and cache is not None:
            # Distances beyond the table would be read as its longest one: make them visible instead.
            x = jnp.where((cache.valid.sum(axis=1) > c.max_tokens)[:, None, None], jnp.nan, x)
            if cache.beams is not None:
                distances = cache.positions(1) - cache.beams.positions(jnp.arange(cache.capacity))
        base = AttentionInputs(head_mask=cross_mask, return_weights=attentions)
        source = (encoder_hidden_states, encoder_attention_mask)
        cross = optional_encoder_inputs(c, x, *source, cache, base, self.is_initializing())
        base = AttentionInputs(head_mask=self_mask, distances=distances, return_weights=attentions)
        visible = self_attention(
            attention_mask, cache, batch, length, causal=c.is_decoder, segments=segments, base=base
        )
        out = self.encoder(x, LayerInputs(visible, cross), cache, hidden)
        states = self.norm(out.last) if self.pre_norm else out.last
        return self.make_output(
            BaseModelOutputWithPoolingAndCrossAttentions,
            return_dict,
            last_hidden_state=states,
            pooler_output=jnp.tanh(self.pooler(states[:, 0])) if self.add_pooling_layer else None,
            cache=out.cache,
            # The reference keeps the states before the final norm, unlike GPT-2's (docs/parity.md, R4).
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if hidden else None,
            attentions=remove_pruned_heads(c, out.attentions),
            cross_attentions=out.cross_attentions,
        )

    def _types(self, token_type_ids, batch: int, length: int) -> jax.Array:
        if token_type_ids is None:
            return jnp.zeros((1, length), jnp.int32)
        size = self.config.type_vocab_size
        ids = check_ids("token_type_ids", token_type_ids, size, "the token type table", (1, 2))
        return as_batch("token_type_ids", ids, batch, length)

    def _positions(
        self, position_ids, segments: jax.Array | None, input_ids, batch: int, length: int, cache: Cache | None
    ) -> jax.Array:
        c = self.config
        if position_ids is not None:
            ids = check_ids("position_ids", position_ids, c.max_position_embeddings, "the position table", (1, 2))
            return as_batch("position_ids", ids, batch, length)
        if segments is not None:
            return self.count_to_position(positions_in_segments(segments) + 1)
        past = jnp.zeros((), jnp.int32) if cache is None else cache.positions(1)[0]
        if input_ids is None or not self.counts_tokens:
            counts = past + jnp.arange(1, length + 1)[None]
        else:
            real = jnp.asarray(input_ids) != c.pad_token_id
            counts = jnp.where(real, past + jnp.cumsum(real, axis=1), 0)
        longest = int(np.asarray(counts).max()) if is_concrete(counts) else length
        if longest > c.max_tokens:
            counted = ", counted from pad_token_id + 1" if self.counts_tokens else ""
            raise ValueError(
                f"{longest} tokens are more than the {c.max_tokens} positions of this model (max_position_embeddings="
                f"{c.max_position_embeddings}{counted}); cut them: truncation=True in the tokenizer's call"
                + (". Under jit, longer padding needs position_ids" if self.counts_tokens else "")
            )
        return self.count_to_position(counts)
