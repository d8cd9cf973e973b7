"""T5 (Raffel et al., 2019, arXiv:1910.10683; reference: transformers/models/t5/modeling_t5.py).

tokens -> shared word embeddings -> pre-norm layers with relative positions -> final norm, in the encoder and in the
decoder. Attention scores are not scaled, no projection has a bias.
"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.inputs import warn_of_unmasked_padding, words
from jaxmodels.architectures.pruning import layer_head_mask
from jaxmodels.architectures.seq2seq import ConditionalGeneration, EncoderDecoder, Seq2SeqModel, source_keywords
from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.architectures.t5.stack import T5Stack
from jaxmodels.architectures.t5.weights import TABLE
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.linear import Embedding, Linear, scaled_normal
from jaxmodels.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Output

NO_LIMIT = 2**31 - 1


class T5PreTrainedModel(EncoderDecoder):
    """What both classes share."""

    config_class = T5Config
    table = TABLE

    @property
    def max_tokens(self) -> int:
        """T5 has no table of positions: a text may be as long as memory allows."""
        return NO_LIMIT

    @property
    def max_source_tokens(self) -> int:
        """The same of the encoder."""
        return NO_LIMIT

    @property
    def cache_sizes(self) -> dict[str, int]:
        c = self.config
        return {"layers": c.num_decoder_layers, "heads": c.num_heads, "head_dim": c.d_kv}


class T5Model(T5PreTrainedModel, Seq2SeqModel):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call; head masks may be [H] too.

    A head_mask alone holds for the decoder as well, if both stacks have the same number of layers (with a
    FutureWarning, as in the reference).
    """

    def setup(self):
        c = self.config
        init = scaled_normal(c.initializer_factor)
        self.shared = Embedding(c.vocab_size, c.d_model, init, "vocab", self.dtype, self.param_dtype)
        self.encoder = T5Stack(c, **self.choices)
        self.decoder = T5Stack(c, decodes=True, **self.choices)

    def __call__(self, input_ids=None, *, head_mask=None, decoder_head_mask=None, **options) -> Output | tuple:
        c = self.config
        if head_mask is not None and decoder_head_mask is None and c.num_layers == c.num_decoder_layers:
            warnings.warn(
                "head_mask holds for the decoder too, because there is no decoder_head_mask; for the encoder alone "
                f"pass decoder_head_mask=jnp.ones(({c.num_decoder_layers}, {c.num_heads}))",
                FutureWarning,
                stacklevel=2,
            )
            decoder_head_mask = head_mask
        return super().__call__(input_ids, head_mask=head_mask, decoder_head_mask=decoder_head_mask, **options)

    def encode(
        self,
        input_ids: jax.Array | None = None,
        *,
        attention_mask: jax.Array | None = None,
        head_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple:
        """Runs the encoder; the arguments are those of the call, attention_mask may be [B,S,S] too."""
        c = self.config
        x, _ = words(self.shared, c, input_ids, inputs_embeds)
        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        out = self.encoder(
            x,
            attention_mask=attention_mask,
            heads=_head_mask("head_mask", head_mask, c.num_layers, c.num_heads, "head_mask"),
            source={},
            cache=None,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        out = BaseModelOutput(
            last_hidden_state=out.last_hidden_state, hidden_states=out.hidden_states, attentions=out.attentions
        )
        return self.answer(out, return_dict)

    def decode(
        self,
        decoder_input_ids: jax.Array | None = None,
        *,
        decoder_attention_mask: jax.Array | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        encoder_hidden_states: jax.Array | None = None,
        encoder_attention_mask: jax.Array | None = None,
        decoder_head_mask: jax.Array | None = None,
        cross_attn_head_mask: jax.Array | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple:
        """Runs the decoder over encoder states [B,S,D], or over those that the cache has seen.

        Args:
          encoder_attention_mask: [B,S], 1 for real tokens; needed at every step. Also [B,T,S].
          The others are those of the call.
        """
        c = self.config
        x, _ = words(self.shared, c, decoder_input_ids, decoder_inputs_embeds, prefix="decoder_")
        shape = (c.num_decoder_layers, c.num_heads)
        heads = _head_mask("head_mask", decoder_head_mask, *shape, "decoder_head_mask")
        heads |= _head_mask("cross_head_mask", cross_attn_head_mask, *shape, "cross_attn_head_mask")
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        out = self.decoder(
            x,
            attention_mask=decoder_attention_mask,
            heads=heads,
            source=source_keywords(x, encoder_hidden_states, encoder_attention_mask, cache),
            cache=cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        return self.answer(out, return_dict)


def _head_mask(keyword: str, mask, layers: int, heads: int, name: str) -> dict[str, jax.Array]:
    """As `layer_head_mask`; a mask [H] holds for all layers."""
    if mask is not None and jnp.shape(mask) == (heads,):
        mask = jnp.broadcast_to(jnp.asarray(mask), (layers, heads))
    return layer_head_mask(keyword, mask, layers, heads, name)


class T5ForConditionalGeneration(ConditionalGeneration, T5PreTrainedModel):
    """T5 with its language model head. See `T5Model` for the arguments of a call, and:

    labels: int [B,T], scored against the logits at the same place (not shifted); -100 is ignored. Without decoder
      inputs they are these too, shifted right.

    Its parameters are T5Model's, at the same paths; an untied head adds `lm_head`.
    """

    body = T5Model

    def setup(self):
        c = self.config
        self.transformer = T5Model(c, **self.choices)
        nn.share_scope(self, self.transformer)
        if not c.tie_word_embeddings:
            init = scaled_normal(c.initializer_factor)
            self.lm_head = Linear((c.vocab_size,), ("embed", "vocab"), init, False, self.dtype, self.param_dtype)

    @property
    def base(self) -> T5Model:
        return self.transformer

    def language_logits(self, states: jax.Array) -> jax.Array:
        c = self.config
        if c.scales_outputs:
            states = states * c.d_model**-0.5
        if c.tie_word_embeddings:
            return self.base.shared.attend(states)
        return self.lm_head(states).astype(jnp.float32)
