"""BART's embeddings and decoder, which LED has too (reference: transformers/models/bart/modeling_bart.py)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.architectures.bart.config import BartLikeConfig
from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.inputs import is_concrete
from jaxmodels.architectures.pruning import layer_head_mask
from jaxmodels.architectures.seq2seq import source_keywords
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.layer import FeedForward, Layer
from jaxmodels.layers.linear import Embedding, dropout, layer_norm, scaled_normal
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.stack import Stack
from jaxmodels.outputs import BaseModelOutputWithPastAndCrossAttentions

EPSILON = 1e-5


class BartEmbeddings(Configured):
    """Word vectors + learned positions -> norm -> dropout.

    Attributes:
      positions: tokens that there are positions for.
      offset: unused rows before the first position (2 in BART, none in LED; docs/parity.md, A19, L15).
      limit: the config's name of `positions`, for messages.
    """

    config: BartLikeConfig
    positions: int = 1024
    offset: int = 0
    limit: str = "max_position_embeddings"

    def setup(self):
        c = self.config
        init, rows = scaled_normal(c.init_std), self.positions + self.offset
        self.table = Embedding(rows, c.d_model, init, "length", self.dtype, self.param_dtype)
        self.norm = layer_norm(EPSILON, self.dtype, self.param_dtype)

    def __call__(self, words: jax.Array, places: jax.Array | None = None) -> jax.Array:
        """[B,T,D] at positions [T]; None counts from 0.

        Raises:
          ValueError: beyond the last position (where `places` is concrete; else the states become NaN).
        """
        length = words.shape[1]
        last = int(places.max()) + 1 if places is not None and is_concrete(places) else length
        if last > self.positions:
            raise ValueError(
                f"{last} tokens are more than the {self.positions} positions of this model ({self.limit}); cut them"
            )
        x = words.astype(self.dtype) + self.table(self.offset + (jnp.arange(length) if places is None else places))
        return dropout(self, self.norm(x), self.config.dropout)


def bart_layer(
    config: BartLikeConfig,
    stack: str,
    *,
    attention: str,
    dtype: Any,
    param_dtype: Any,
    own_attention: partial | None = None,
) -> Layer:
    """One post-norm layer of the "encoder" or the "decoder".

    Args:
      attention: implementation of the attention function.
      own_attention: makes the self attention, where it is not BART's.
    """
    c, init = config, scaled_normal(config.init_std)
    heads, width = getattr(c, f"{stack}_attention_heads"), getattr(c, f"{stack}_ffn_dim")
    kinds: dict[str, Any] = {"kernel_init": init, "out_init": init, "dtype": dtype, "param_dtype": param_dtype}
    attend = partial(
        Attention, heads, c.d_model // heads, dropout=c.attention_dropout, implementation=attention, **kinds
    )
    return Layer(
        attention=own_attention or attend,
        cross_attention=partial(attend, cross=True) if stack == "decoder" else None,
        feed_forward=partial(FeedForward, width, c.activation_function, dropout=c.activation_dropout, **kinds),
        norm=partial(layer_norm, EPSILON, dtype, param_dtype),
        pre_norm=False,
        dropout=c.dropout,
        clamped=stack == "encoder",
        parent=None,
    )


class BartDecoder(Configured):
    """Causal layers that read the encoder's states.

    Attributes:
      embed_tokens: the table of the words that it reads; it gets their vectors.
      positions, offset, limit: see `BartEmbeddings`.
    """

    config: BartLikeConfig
    embed_tokens: Embedding | None = None
    positions: int = 1024
    offset: int = 0
    limit: str = "max_position_embeddings"

    def setup(self):
        c = self.config
        table = {"positions": self.positions, "offset": self.offset, "limit": self.limit}
        self.embeddings = BartEmbeddings(c, **table, **self.kinds)
        layer = partial(bart_layer, c, "decoder", attention=self.attention, **self.kinds)
        self.stack = Stack(layer, c.decoder_layers, self.remat, self.unroll, c.decoder_layerdrop)

    def __call__(
        self,
        words: jax.Array,
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
        """Word vectors [B,T,D] -> states [B,T,D]; the arguments are those of `Seq2SeqModel`'s decode."""
        c = self.config
        batch, length, _ = words.shape
        x = self.embeddings(words, None if cache is None else cache.places(length))
        source = source_keywords(x, encoder_hidden_states, encoder_attention_mask, cache)
        visible, cache = self_visibility(attention_mask, cache, batch, length, causal=True)
        shape = (c.decoder_layers, c.decoder_attention_heads)
        heads = layer_head_mask("head_mask", head_mask, *shape, "decoder_head_mask")
        heads |= layer_head_mask("cross_head_mask", cross_attn_head_mask, *shape, "cross_attn_head_mask")
        out = self.stack(
            x,
            shared={"output_attentions": output_attentions, **visible, **source},
            per_layer=heads,
            cache=cache,
            output_hidden_states=output_hidden_states,
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=out.last,
            cache=out.cache,
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )
