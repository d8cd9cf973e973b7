"""BART (Lewis et al., 2019, arXiv:1910.13461; reference: transformers/models/bart/modeling_bart.py)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.bart.config import BartConfig, BartLikeConfig
from jaxmodels.architectures.bart.decoder import BartDecoder, BartEmbeddings, bart_layer
from jaxmodels.architectures.bart.weights import TABLE
from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.inputs import warn_of_unmasked_padding, words
from jaxmodels.architectures.pruning import layer_head_mask
from jaxmodels.architectures.seq2seq import ConditionalGeneration, EncoderDecoder, Seq2SeqModel, shift_tokens_right
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.linear import Embedding, Linear, scaled_normal
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.stack import Stack
from jaxmodels.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

# Rows of the position tables before position 0 (they are there for the sake of fairseq's checkpoints).
OFFSET = 2


def word_table(config: BartLikeConfig, dtype: Any, param_dtype: Any, **module: Any) -> Embedding:
    """A table of word vectors."""
    init = scaled_normal(config.init_std)
    return Embedding(
        config.vocab_size, config.d_model, init, "vocab", dtype, param_dtype, padding=config.pad_token_id, **module
    )


class BartLikeModel(Seq2SeqModel):
    """The shared word embeddings and the decoder; a family makes its stacks in `setup_stacks`."""

    config: BartLikeConfig

    def setup(self):
        self.shared = word_table(self.config, **self.kinds)
        self.setup_stacks()

    def setup_stacks(self) -> None:
        """Makes `encoder` and `decoder`, which have the tables of what they read as `embed_tokens`."""
        raise NotImplementedError

    def vectors(self, table: Embedding, ids: jax.Array) -> jax.Array:
        """Word vectors [...,D] of ids, scaled; those that the caller gives are taken as they are."""
        words = table(ids)
        return words * jnp.asarray(self.config.embedding_scale, words.dtype)

    def default_decoder_ids(self, input_ids) -> jax.Array:
        """The encoder's ids, shifted right: denoising, as in pretraining."""
        if input_ids is None:
            raise ValueError("without input_ids, give decoder_input_ids or decoder_inputs_embeds")
        return shift_tokens_right(input_ids, self.config.pad_token_id, self.config.decoder_start_token_id)

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
          encoder_attention_mask: [B,S], 1 for real tokens; needed at every step.
          The others are those of the call.
        """
        vectors = partial(self.vectors, self.decoder.embed_tokens)
        x, _ = words(vectors, self.config, decoder_input_ids, decoder_inputs_embeds, prefix="decoder_")
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        out = self.decoder(
            x,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            cache=cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        return self.answer(out, return_dict)


class BartCaching(EncoderDecoder):
    """How the decoders of BART and LED are stepped through."""

    config: BartLikeConfig

    @property
    def cache_sizes(self) -> dict[str, int]:
        c = self.config
        heads = c.decoder_attention_heads
        return {"layers": c.decoder_layers, "heads": heads, "head_dim": c.d_model // heads}


class BartPreTrainedModel(BartCaching):
    """What BART's classes share."""

    config_class = BartConfig
    table = TABLE

    @property
    def max_tokens(self) -> int:
        """The longest output, in tokens."""
        return self.config.max_position_embeddings

    @property
    def max_source_tokens(self) -> int:
        return self.config.max_position_embeddings


class BartEncoder(Configured):
    """Layers that read both ways.

    Attributes:
      embed_tokens: the table of the words that it reads; it gets their vectors.
    """

    config: BartConfig
    embed_tokens: Embedding | None = None

    def setup(self):
        c = self.config
        self.embeddings = BartEmbeddings(c, positions=c.max_position_embeddings, offset=OFFSET, **self.kinds)
        layer = partial(bart_layer, c, "encoder", attention=self.attention, **self.kinds)
        self.stack = Stack(layer, c.encoder_layers, self.remat, self.unroll, c.encoder_layerdrop)

    def __call__(self, x, attention_mask, head_mask, *, output_attentions, output_hidden_states) -> BaseModelOutput:
        """Word vectors [B,S,D] -> states [B,S,D]."""
        c = self.config
        batch, length, _ = x.shape
        visible, _ = self_visibility(attention_mask, None, batch, length, causal=False)
        out = self.stack(
            self.embeddings(x),
            shared={"output_attentions": output_attentions, **visible},
            per_layer=layer_head_mask("head_mask", head_mask, c.encoder_layers, c.encoder_attention_heads),
            output_hidden_states=output_hidden_states,
        )
        return BaseModelOutput(
            last_hidden_state=out.last,
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None,
            attentions=out.attentions,
        )


class BartModel(BartLikeModel, BartPreTrainedModel):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call.

    Without decoder inputs the decoder reads input_ids, shifted right. With tie_word_embeddings=False each stack has a
    table of words of its own; `shared` is kept beside them and not read (docs/parity.md, A19, note 5).
    """

    def setup_stacks(self):
        c = self.config
        own = partial(word_table, c, parent=None, **self.kinds)
        tables = (self.shared, self.shared) if c.tie_word_embeddings else (own(), own())
        self.encoder = BartEncoder(c, embed_tokens=tables[0], **self.choices)
        where = {"positions": c.max_position_embeddings, "offset": OFFSET}
        self.decoder = BartDecoder(c, embed_tokens=tables[1], **where, **self.choices)
        if self.is_initializing():
            self.shared(jnp.zeros((1,), jnp.int32))

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
        """Runs the encoder; the arguments are those of the call."""
        x, _ = words(partial(self.vectors, self.encoder.embed_tokens), self.config, input_ids, inputs_embeds)
        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, self.config.pad_token_id)
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        out = self.encoder(x, attention_mask, head_mask, output_attentions=attentions, output_hidden_states=hidden)
        return self.answer(out, return_dict)


class LanguageHead(ConditionalGeneration):
    """Logits over the shared vocabulary, with a bias that is stored but not trained; LED has the same head."""

    config: BartLikeConfig

    def setup_head(self) -> None:
        c = self.config
        zeros = jax.nn.initializers.zeros
        bias = nn.with_logical_partitioning(zeros, ("vocab",))
        self.final_logits_bias = self.param("final_logits_bias", bias, (c.vocab_size,), self.param_dtype)
        if not c.tie_word_embeddings:
            init = scaled_normal(c.init_std)
            self.lm_head = Linear((c.vocab_size,), ("embed", "vocab"), init, False, self.dtype, self.param_dtype)

    def language_logits(self, states: jax.Array) -> jax.Array:
        tied = self.config.tie_word_embeddings
        logits = self.base.shared.attend(states) if tied else self.lm_head(states).astype(jnp.float32)
        return logits + jax.lax.stop_gradient(self.final_logits_bias.astype(jnp.float32))


class BartForConditionalGeneration(LanguageHead, BartPreTrainedModel):
    """BART with its language model head. See `Seq2SeqModel` for the arguments of a call, and:

    labels: int [B,T], scored against the logits at the same place (not shifted); -100 is ignored. Without decoder
      inputs they are these too, shifted right.
    """

    body = BartModel

    def setup(self):
        self.model = BartModel(self.config, **self.choices)
        self.setup_head()

    @property
    def base(self) -> BartModel:
        return self.model
