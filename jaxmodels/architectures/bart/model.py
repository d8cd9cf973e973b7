"""BART (Lewis et al., 2019, arXiv:1910.13461; reference: transformers/models/bart/modeling_bart.py).

LED shares its decoder and embeddings.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.bart.config import BartConfig, BartLikeConfig
from jaxmodels.architectures.bart.weights import TABLE
from jaxmodels.architectures.base import OutputT, RunOptions
from jaxmodels.architectures.inputs import default_positions, layer_head_mask
from jaxmodels.architectures.seq2seq import Seq2SeqLM, Seq2SeqModel, shift_tokens_right, source_inputs
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.feed_forward import FeedForward
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs, reserve, self_attention
from jaxmodels.layers.linear import Embedding, dropout, layer_norm, scaled_normal
from jaxmodels.layers.stack import Layer, Stack
from jaxmodels.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)

EPSILON = 1e-5
# Unused positions before position 0, which fairseq's checkpoints have.
OFFSET = 2


class BartEmbeddings(nn.Module):
    """Token embeddings + learned positions -> norm -> dropout.

    Attributes:
      positions: how many positions there are.
      offset: unused entries before the first position (2 in BART, none in LED; docs/parity.md, A19, L15).
      limit: the config's name of `positions`, for messages.
    """

    config: BartLikeConfig
    options: RunOptions
    positions: int = 1024
    offset: int = 0
    limit: str = "max_position_embeddings"

    def setup(self):
        c, size = self.config, self.positions + self.offset
        self.table = Embedding(size, c.d_model, scaled_normal(c.init_std), "positions", **self.options.dtypes)
        self.norm = layer_norm(EPSILON, **self.options.dtypes)

    def __call__(self, tokens: jax.Array, cache: Cache | None = None) -> jax.Array:
        """Token embeddings [B,T,D] at positions counted from the start of the cache -> [B,T,D].

        Raises:
          ValueError: beyond the last position (where the cache is concrete; else the states become NaN).
        """
        positions = default_positions(tokens.shape[1], cache, self.positions, self.limit)
        if cache is None:
            embedded = self.table.rows(self.offset, tokens.shape[1])
        else:
            embedded = self.table(self.offset + positions)
        x = tokens.astype(self.options.dtype) + embedded
        return dropout(self, self.norm(x), self.config.dropout)


def bart_layer(
    config: BartLikeConfig, stack: str, options: RunOptions, self_attention_class: type[Attention] = Attention
) -> Layer:
    """One post-norm layer of the "encoder" or the "decoder"."""
    c, init = config, scaled_normal(config.init_std)
    heads, width = getattr(c, f"{stack}_attention_heads"), getattr(c, f"{stack}_ffn_dim")
    common: dict[str, Any] = {"kernel_init": init, "out_init": init, **options.dtypes}
    sizes: dict[str, Any] = {"num_heads": heads, "head_dim": c.d_model // heads}
    sizes |= {"dropout": c.attention_dropout, "implementation": options.attention}
    return Layer(
        attention=partial(self_attention_class, **sizes, **common),
        cross_attention=partial(Attention, cross=True, **sizes, **common) if stack == "decoder" else None,
        feed_forward=partial(FeedForward, width, c.activation_function, dropout=c.activation_dropout, **common),
        norm=partial(layer_norm, EPSILON, **options.dtypes),
        pre_norm=False,
        dropout=c.dropout,
        clamp=stack == "encoder",
        parent=None,
    )


class BartEncoder(nn.Module):
    """Layers that attend both ways.

    Attributes:
      embed_tokens: the table of the embeddings that it gets.
    """

    config: BartConfig
    options: RunOptions
    embed_tokens: Embedding | None = None

    def setup(self):
        c, options = self.config, self.options
        self.embeddings = BartEmbeddings(c, options, c.max_position_embeddings, OFFSET)
        layer = partial(bart_layer, c, "encoder", options)
        self.stack = Stack(layer, c.encoder_layers, options.remat, options.unroll, c.encoder_layerdrop)

    def __call__(
        self, x: jax.Array, *, attention_mask, head_mask, output_attentions: bool, output_hidden_states: bool
    ) -> BaseModelOutput:
        """Token embeddings [B,S,D] -> states [B,S,D]."""
        c = self.config
        heads = layer_head_mask("head_mask", head_mask, c.encoder_layers, c.encoder_attention_heads)
        base = AttentionInputs(head_mask=heads, return_weights=output_attentions)
        mask = None if attention_mask is None else jnp.asarray(attention_mask)
        visible = self_attention(mask, None, *x.shape[:2], causal=False, base=base)
        out = self.stack(self.embeddings(x), LayerInputs(visible), output_hidden_states=output_hidden_states)
        return BaseModelOutput(
            last_hidden_state=out.last,
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None,
            attentions=out.attentions,
        )


class BartDecoder(nn.Module):
    """Causal layers that attend to the encoder's states, of BART and LED.

    Attributes:
      embed_tokens: the table of the embeddings that it gets.
      positions, offset, limit: see `BartEmbeddings`.
    """

    config: BartLikeConfig
    options: RunOptions
    embed_tokens: Embedding | None = None
    positions: int = 1024
    offset: int = 0
    limit: str = "max_position_embeddings"

    def setup(self):
        c, options = self.config, self.options
        self.embeddings = BartEmbeddings(c, options, self.positions, self.offset, self.limit)
        layer = partial(bart_layer, c, "decoder", options)
        self.stack = Stack(layer, c.decoder_layers, options.remat, options.unroll, c.decoder_layerdrop)

    def __call__(
        self,
        x: jax.Array,
        *,
        attention_mask,
        encoder_hidden_states,
        encoder_attention_mask,
        head_mask,
        cross_attn_head_mask,
        cache: Cache | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Token embeddings [B,T,D] -> states [B,T,D]; the arguments are those of `Seq2SeqModel.decode`."""
        c = self.config
        batch, length, _ = x.shape
        x = self.embeddings(x, cache)
        sizes = (c.decoder_layers, c.decoder_attention_heads)
        base = AttentionInputs(return_weights=output_attentions)
        cross = dataclasses.replace(
            base, head_mask=layer_head_mask("cross_attn_head_mask", cross_attn_head_mask, *sizes)
        )
        base = dataclasses.replace(base, head_mask=layer_head_mask("decoder_head_mask", head_mask, *sizes))
        cross = source_inputs(x, encoder_hidden_states, encoder_attention_mask, cache, cross)
        mask = None if attention_mask is None else jnp.asarray(attention_mask)
        cache = reserve(cache, mask, batch, length)
        visible = self_attention(mask, cache, batch, length, causal=True, base=base)
        out = self.stack(x, LayerInputs(visible, cross), cache, output_hidden_states)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=out.last,
            cache=out.cache,
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )


class BartLikeModel(Seq2SeqModel[OutputT]):
    """What BART and LED share: token embeddings, and decoder inputs that follow from the encoder's."""

    config: BartLikeConfig

    def token_table(self, **module: Any) -> Embedding:
        """A table of token embeddings."""
        c, init = self.config, scaled_normal(self.config.init_std)
        return Embedding(
            c.vocab_size, c.d_model, init, "vocab", padding=c.pad_token_id, **self.options.dtypes, **module
        )

    def embed(self, table: Embedding, ids: jax.Array) -> jax.Array:
        tokens = table(ids)
        return tokens * jnp.asarray(self.config.embedding_scale, tokens.dtype)

    def default_decoder_ids(self, input_ids) -> jax.Array:
        """The encoder's ids, shifted right: denoising, as in pretraining."""
        if input_ids is None:
            raise ValueError("without input_ids, give decoder_input_ids or decoder_inputs_embeds")
        return shift_tokens_right(input_ids, self.config.pad_token_id, self.config.decoder_start_token_id)


class BartModel(BartLikeModel[Seq2SeqModelOutput]):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call.

    Without decoder inputs the decoder reads input_ids, shifted right. With tie_word_embeddings=False each stack has a
    token table of its own; `shared` is kept beside them and not read (docs/parity.md, A19, note 5).
    """

    config_class = BartConfig
    table = TABLE

    config: BartConfig

    def setup(self):
        c, options = self.config, self.options
        self.shared = self.token_table()
        tied = c.tie_word_embeddings
        tables = [self.shared if tied else self.token_table(parent=None) for _ in range(2)]
        self.encoder = BartEncoder(c, options, tables[0])
        self.decoder = BartDecoder(c, options, tables[1], c.max_position_embeddings, OFFSET)
        if self.is_initializing():
            self.shared(jnp.zeros((1,), jnp.int32))


class BartForConditionalGeneration(Seq2SeqLM[Seq2SeqLMOutput]):
    body: ClassVar = BartModel
    auto_classes = (*Seq2SeqLM.auto_classes, "AutoModelForMaskedLM", "AutoModelForPreTraining")
    has_logits_bias = True
