"""Encoder-decoders: one call, or `encode` once and `decode` step by step.

    out = model.apply(variables, input_ids, decoder_input_ids=ids)
    encoded = model.apply(variables, input_ids, attention_mask=mask, method="encode")
    out = model.apply(variables, ids, encoder_hidden_states=encoded.last_hidden_state, encoder_attention_mask=mask,
                      cache=model.init_cache(batch, length), method="decode")

With a cache, the first call projects the encoder states to keys and values; later ones read those and need no states.
"""

from functools import partial
from typing import Any, ClassVar, TypedDict, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model, OutputT
from jaxmodels.architectures.heads import vocab_projection
from jaxmodels.architectures.inputs import embed_inputs, encoder_inputs, warn_of_unmasked_padding
from jaxmodels.arrays import HeadMask, Hidden, PaddingMask, TokenIds
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.layers.linear import Embedding
from jaxmodels.layers.losses import IGNORE, cross_entropy
from jaxmodels.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    Output,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)


def shift_tokens_right(ids: jax.Array, pad: int | None, start: int | None) -> jax.Array:
    """Decoder inputs [B,T] from labels [B,T]: the start id, then all but the last; ignored labels become padding.

    Raises:
      ValueError: a config without pad_token_id or decoder_start_token_id.
    """
    if pad is None or start is None:
        raise ValueError("labels become decoder inputs only with pad_token_id and decoder_start_token_id in the config")
    ids = jnp.asarray(ids)
    shifted = jnp.concatenate([jnp.full_like(ids[:, :1], start), ids[:, :-1]], axis=1)
    return jnp.where(shifted == IGNORE, pad, shifted)


def source_inputs(x: jax.Array, states, mask, cache: Cache | None, base: AttentionInputs) -> AttentionInputs:
    """What a decoder's cross attention is given, from encoder states [B,S,D] and their mask [B,S], or from the cache.

    Raises:
      ValueError: no states, neither in the call nor in the cache, or a wrong shape.
    """
    inputs = encoder_inputs(x, states, mask, cache, base)
    if inputs is None:
        raise ValueError("the decoder needs encoder_hidden_states (or encoder inputs), or a cache that has seen them")
    return inputs


def encoder_fields(encoded: Output | tuple | None) -> dict[str, Any]:
    """The fields of an encoder's output by their names in an encoder-decoder's output; tuples have the states first."""
    if encoded is None:
        return {}
    names = ("last_hidden_state", "hidden_states", "attentions", "global_attentions")
    items = zip(names, encoded, strict=False) if isinstance(encoded, tuple) else encoded.items()
    return {f"encoder_{name}": value for name, value in items}


class Seq2SeqInputs(TypedDict, total=False):
    """Arguments of `Seq2SeqModel` beside input_ids; the last two are LED's."""

    attention_mask: PaddingMask | None
    decoder_input_ids: TokenIds | None
    decoder_attention_mask: PaddingMask | None
    head_mask: HeadMask | None
    decoder_head_mask: HeadMask | None
    cross_attn_head_mask: HeadMask | None
    encoder_outputs: Output | tuple | None
    inputs_embeds: Hidden | None
    decoder_inputs_embeds: Hidden | None
    cache: Cache | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    global_attention_mask: PaddingMask | None
    max_global_tokens: int | None


class EncodeInputs(TypedDict, total=False):
    """Arguments of `encode` beside input_ids; the last two are LED's."""

    attention_mask: PaddingMask | None
    head_mask: HeadMask | None
    inputs_embeds: Hidden | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None
    global_attention_mask: PaddingMask | None
    max_global_tokens: int | None


class DecodeInputs(TypedDict, total=False):
    """Arguments of `decode` beside decoder_input_ids."""

    decoder_attention_mask: PaddingMask | None
    decoder_inputs_embeds: Hidden | None
    encoder_hidden_states: Hidden | None
    encoder_attention_mask: PaddingMask | None
    decoder_head_mask: HeadMask | None
    cross_attn_head_mask: HeadMask | None
    cache: Cache | None
    output_attentions: bool | None
    output_hidden_states: bool | None


class Seq2SeqModel(Model[OutputT]):
    """An encoder and a decoder without a head; a family overrides the methods below `__call__`.

    Class attributes:
      output_class: of a call.
    """

    auto_classes = ("AutoModel",)
    output_class: ClassVar[type[Output]] = Seq2SeqModelOutput

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        decoder_input_ids: TokenIds | None = None,
        decoder_attention_mask: PaddingMask | None = None,
        head_mask: HeadMask | None = None,
        decoder_head_mask: HeadMask | None = None,
        cross_attn_head_mask: HeadMask | None = None,
        encoder_outputs: Output | tuple | None = None,
        inputs_embeds: Hidden | None = None,
        decoder_inputs_embeds: Hidden | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **encoding: Any,
    ) -> OutputT:
        """Encodes, unless `encoder_outputs` or the cache hold the result already, and decodes.

        Args:
          input_ids: int [B,S]. attention_mask: [B,S], 1 for real tokens. inputs_embeds: [B,S,D] instead of input_ids.
          decoder_input_ids: int [B,T]. decoder_attention_mask: [B,T]; with a cache see `Cache.reserve`.
          decoder_inputs_embeds: [B,T,D] instead of decoder_input_ids.
          head_mask, decoder_head_mask, cross_attn_head_mask: [L,H], multiply the heads' attention probabilities in
            the encoder, the decoder's self attention and its cross attention.
          encoder_outputs: what `encode` returned, or a tuple with the states [B,S,D] first.
          cache: from `init_cache` or an earlier output.
          output_attentions, output_hidden_states, return_dict: default to the config's.
          encoding: further arguments of the family's `encode`, see `encoding_options`.

        Raises:
          ValueError, TypeError: an argument of the wrong shape or type, or outside its table.
        """
        if unknown := sorted(encoding.keys() - set(self.encoding_options)):
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(map(repr, unknown))}")
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.default_decoder_ids(input_ids)
        cached = cache is not None and cache.source_length is not None
        if encoder_outputs is None and not (cached and input_ids is None and inputs_embeds is None):
            encoder_outputs = self.encode(
                input_ids,
                attention_mask=attention_mask,
                head_mask=head_mask,
                inputs_embeds=inputs_embeds,
                return_dict=True,
                **flags,
                **encoding,
            )
        encoded = encoder_fields(encoder_outputs)
        out = self.decode(
            decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoded.get("encoder_last_hidden_state"),
            encoder_attention_mask=attention_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            cache=cache,
            return_dict=True,
            **flags,
        )
        output: Any = self.output_class
        return self.make_output(
            output,
            return_dict,
            last_hidden_state=out.last_hidden_state,
            cache=out.cache,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            **encoded,
        )

    def embed(self, table: Embedding, ids: jax.Array) -> jax.Array:
        """Token embeddings [...,D] of ids; those that the caller passes are taken as they are."""
        return table(ids)

    def default_decoder_ids(self, input_ids) -> jax.Array:
        """What the decoder reads if the call does not say."""
        raise ValueError("give either decoder_input_ids or decoder_inputs_embeds, one of the two")

    def encode(
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        head_mask: HeadMask | None = None,
        inputs_embeds: Hidden | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Runs the encoder; the arguments are those of the call, attention_mask may be [B,S,S] too."""
        c = self.config
        x, _ = embed_inputs(partial(self.embed, self.encoder.embed_tokens), c, input_ids, inputs_embeds)
        if attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
        out = self.encoder(
            x,
            attention_mask=attention_mask,
            head_mask=head_mask,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        return self.make_output(BaseModelOutput, return_dict, out)

    def decode(
        self,
        decoder_input_ids: TokenIds | None = None,
        *,
        decoder_attention_mask: PaddingMask | None = None,
        decoder_inputs_embeds: Hidden | None = None,
        encoder_hidden_states: Hidden | None = None,
        encoder_attention_mask: PaddingMask | None = None,
        decoder_head_mask: HeadMask | None = None,
        cross_attn_head_mask: HeadMask | None = None,
        cache: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Runs the decoder over encoder states [B,S,D], or over those that the cache has seen.

        Args:
          encoder_attention_mask: [B,S], 1 for real tokens, or [B,T,S]; needed at every step.
          The others are those of the call.
        """
        embed = partial(self.embed, self.decoder.embed_tokens)
        x, _ = embed_inputs(embed, self.config, decoder_input_ids, decoder_inputs_embeds, prefix="decoder_")
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
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
        return self.make_output(BaseModelOutputWithPastAndCrossAttentions, return_dict, out)


class Seq2SeqHead(Model[OutputT]):
    """A head over a `Seq2SeqModel`."""

    body: ClassVar[type[Seq2SeqModel]]

    def encode(self, input_ids: jax.Array | None = None, **inputs: Unpack[EncodeInputs]) -> BaseModelOutput:
        """The base model's `encode`."""
        return self.base.encode(input_ids, **inputs)


class Seq2SeqLM(Seq2SeqHead[OutputT]):
    """Language model over the decoder. Takes the base model's arguments (see `Seq2SeqModel`), and:

    labels: int [B,T], scored against the logits at the same position (not shifted); -100 is ignored. Without decoder
      inputs they are these too, shifted right.

    Class attributes:
      has_logits_bias: a bias of the logits is stored with the model, but not trained (BART, LED).
    """

    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM", "AutoModelWithLMHead")
    output_class: ClassVar[type[Output]] = Seq2SeqLMOutput
    has_logits_bias: ClassVar[bool] = False

    def setup_head(self):
        c = self.config
        if self.has_logits_bias:
            bias = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
            self.final_logits_bias = self.param("final_logits_bias", bias, (c.vocab_size,), self.param_dtype)
        self.lm_head = vocab_projection(c, self.options, self.initializer_std)

    @property
    def initializer_std(self) -> float:
        """Of an untied head."""
        return self.config.initializer_range

    def language_logits(self, states: jax.Array) -> jax.Array:
        """[B,T,D] -> float32 [B,T,V]."""
        logits = self.lm_head(states, self.base.shared)
        if not self.has_logits_bias:
            return logits
        return logits + jax.lax.stop_gradient(self.final_logits_bias.astype(jnp.float32))

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[Seq2SeqInputs],
    ) -> OutputT:
        if labels is not None:
            labels, c = jnp.asarray(labels), self.config
            if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
                inputs["decoder_input_ids"] = shift_tokens_right(labels, c.pad_token_id, c.decoder_start_token_id)
        out = self.base(input_ids, return_dict=True, **inputs)
        logits = self.language_logits(out.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, labels)
        output: Any = self.output_class
        return self.make_output(output, return_dict, out, loss=loss, logits=logits)

    def decode(
        self,
        decoder_input_ids: TokenIds | None = None,
        *,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **inputs: Unpack[DecodeInputs],
    ) -> CausalLMOutputWithCrossAttentions:
        """The base model's `decode`, with logits: of the last `logits_to_keep` positions only, 0 for all."""
        out = self.base.decode(decoder_input_ids, return_dict=True, **inputs)
        logits = self.language_logits(out.last_hidden_state[:, -logits_to_keep:])
        return self.make_output(CausalLMOutputWithCrossAttentions, return_dict, out, logits=logits)
