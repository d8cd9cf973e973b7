"""LED, the Longformer encoder-decoder (Beltagy et al., 2020, arXiv:2004.05150; reference: .../led/modeling_led.py).

An encoder whose tokens attend to a window and to a few global tokens, and BART's decoder over all encoder states.
"""

from functools import partial
from typing import Any, ClassVar, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.bart.model import BartDecoder, BartEmbeddings, BartLikeModel, bart_layer
from jaxmodels.architectures.base import Model, OutputT, RunOptions
from jaxmodels.architectures.heads import ClassificationHead, classifier_layer, span_logits
from jaxmodels.architectures.inputs import embed_inputs, is_concrete, layer_head_mask, warn_of_unmasked_padding
from jaxmodels.architectures.led.config import LEDConfig
from jaxmodels.architectures.led.outputs import (
    LEDEncoderBaseModelOutput,
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqModelOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)
from jaxmodels.architectures.led.visibility import Visibility, check_flags, check_slots, visibility
from jaxmodels.architectures.led.weights import TABLE
from jaxmodels.architectures.seq2seq import Seq2SeqHead, Seq2SeqInputs, Seq2SeqLM
from jaxmodels.arrays import HeadMask, Hidden, PaddingMask, TokenIds
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs
from jaxmodels.layers.linear import Embedding
from jaxmodels.layers.longformer import LongformerAttention
from jaxmodels.layers.losses import classification_loss, span_loss
from jaxmodels.layers.stack import Stack


class LEDGlobalTokens(Model[OutputT]):
    """How LED's classes deal with global tokens.

    Attributes:
      max_global_tokens: global tokens that an example may have. It is static, so that neither their number nor their
        positions recompile anything. None takes it from the mask, which must then be concrete. A mask with more is a
        ValueError, or, where it is traced, turns that example into NaN.
    """

    config: LEDConfig
    max_global_tokens: int | None = None

    @property
    def body_options(self) -> dict[str, Any]:
        return {**self.options.keywords, "max_global_tokens": self.max_global_tokens}

    def encoder_inputs(self, options):
        mask, slots = options.get("global_attention_mask"), options.get("max_global_tokens")
        slots = self.max_global_tokens if slots is None else slots
        if mask is None:
            return {}, ()
        if not is_concrete(mask):
            return {"global_attention_mask": mask}, (("max_global_tokens", slots),)
        mask = np.asarray(mask)
        check_flags(mask)
        most = int((mask == 1).sum(axis=1).max(initial=0))
        check_slots(most, slots)  # here, because nothing can be raised in the compiled loop
        if slots is None:  # a power of two, so that another number of global tokens rarely recompiles
            slots = 1 << (most - 1).bit_length() if most else 0
        return {"global_attention_mask": mask}, (("max_global_tokens", slots),)

    def encoder_attentions(self, attentions, inputs, batch, length):
        """Their keys are not tokens, but slots of global tokens and a window: unused slots are left out."""
        used, windows = 0, self.config.windows
        if "global_attention_mask" in inputs:
            used = int(((inputs["global_attention_mask"] == 1) & (inputs["attention_mask"] == 1)).sum(axis=1).max())

        def cut(layers, window):
            spare = slice(used, layers.shape[-1] - (window + 1))
            return jnp.delete(layers[..., :batch, :, :length, :], spare, axis=-1)

        if isinstance(attentions, tuple):
            return tuple(map(cut, attentions, windows))
        return cut(attentions, windows[0])


class LEDEncoder(nn.Module):
    """Layers whose tokens attend to a window and to a few global tokens.

    Attributes:
      embed_tokens: the table of the embeddings that it gets.
    """

    config: LEDConfig
    options: RunOptions
    embed_tokens: Embedding | None = None

    def setup(self):
        c, options = self.config, self.options
        limit = "max_encoder_position_embeddings"
        self.embeddings = BartEmbeddings(c, options, c.max_encoder_position_embeddings, limit=limit)
        layer = partial(bart_layer, c, "encoder", options, LongformerAttention)
        self.stack = Stack(layer, c.encoder_layers, options.remat, options.unroll, c.encoder_layerdrop)

    def __call__(
        self, x: jax.Array, visible: Visibility, head_mask, *, output_attentions: bool, output_hidden_states: bool
    ) -> LEDEncoderBaseModelOutput:
        """Token embeddings [B,S,D] -> states [B,S,D].

        The reference pads to a multiple of the window and removes that again, for the sake of its chunks; here no token
        is added, and the numbers are the same.
        """
        c = self.config
        x = self.embeddings(x)
        if visible.surplus is not None:
            x = jnp.where(visible.surplus[:, None, None], jnp.nan, x)
        heads = layer_head_mask("head_mask", head_mask, c.encoder_layers, c.encoder_attention_heads)
        inputs = {
            window: LayerInputs(
                AttentionInputs(visible.mask(window), head_mask=heads, return_weights=output_attentions)
            )
            for window in set(c.windows)
        }
        out = self.stack(x, [inputs[window] for window in c.windows], output_hidden_states=output_hidden_states)
        attentions, global_attentions = out.attentions if output_attentions else (None, None)
        if global_attentions is not None:  # the reference pads their queries to the window
            surplus = -x.shape[1] % max(c.windows)
            global_attentions = jnp.pad(global_attentions, ((0, 0),) * 3 + ((0, surplus), (0, 0)))
        return LEDEncoderBaseModelOutput(
            last_hidden_state=out.last,
            hidden_states=jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None,
            attentions=attentions,
            global_attentions=global_attentions,
        )


class LEDModel(LEDGlobalTokens[LEDSeq2SeqModelOutput], BartLikeModel[LEDSeq2SeqModelOutput]):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call, and `encode` for LED's own.

    Without decoder inputs the decoder reads input_ids, shifted right.
    """

    config_class = LEDConfig
    table = TABLE
    output_class = LEDSeq2SeqModelOutput
    encoding_options = ("global_attention_mask", "max_global_tokens")

    config: LEDConfig

    def setup(self):
        c, options = self.config, self.options
        self.shared = self.token_table()
        self.encoder = LEDEncoder(c, options, self.shared)
        limit = "max_decoder_position_embeddings"
        self.decoder = BartDecoder(c, options, self.shared, c.max_decoder_position_embeddings, limit=limit)

    def encode(  # type: ignore[override]  # with global_attentions in the output
        self,
        input_ids: TokenIds | None = None,
        *,
        attention_mask: PaddingMask | None = None,
        global_attention_mask: PaddingMask | None = None,
        max_global_tokens: int | None = None,
        head_mask: HeadMask | None = None,
        inputs_embeds: Hidden | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LEDEncoderBaseModelOutput:
        """Runs the encoder; what is not named here is as in the call.

        Args:
          global_attention_mask: [B,S], 1 for tokens that attend to all others and that all others attend to: the first
            token for classification, the question for answers, the query for summaries. -1 marks padding.
          max_global_tokens: in place of the model's.

        Raises:
          ValueError: a mask of another shape or with other values, or more global tokens than there is room for.
        """
        c = self.config
        x, _ = embed_inputs(partial(self.embed, self.encoder.embed_tokens), c, input_ids, inputs_embeds)
        if attention_mask is None and global_attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, c.pad_token_id)
        slots = self.max_global_tokens if max_global_tokens is None else max_global_tokens
        visible = visibility(attention_mask, global_attention_mask, x.shape[0], x.shape[1], slots)
        attentions, hidden = self.output_flags(output_attentions, output_hidden_states)
        out = self.encoder(x, visible, head_mask, output_attentions=attentions, output_hidden_states=hidden)
        return self.make_output(LEDEncoderBaseModelOutput, return_dict, out)


class LEDForConditionalGeneration(Seq2SeqLM[LEDSeq2SeqLMOutput], LEDGlobalTokens[LEDSeq2SeqLMOutput]):
    body: ClassVar = LEDModel
    output_class = LEDSeq2SeqLMOutput
    has_logits_bias = True


class LEDForSequenceClassification(
    LEDGlobalTokens[LEDSeq2SeqSequenceClassifierOutput], Seq2SeqHead[LEDSeq2SeqSequenceClassifierOutput]
):
    """Classifies the decoder's state at the last eos of input_ids. Takes the base model's arguments, and:

    labels: int [B], or float [B] or [B,num_labels]; see `classification_loss`.

    Raises:
      NotImplementedError: inputs_embeds, which have no eos.
      ValueError: sequences with different numbers of eos (under jit they become NaN), or without one.
    """

    body: ClassVar = LEDModel
    auto_classes = ("AutoModelForSequenceClassification",)

    def setup_head(self):
        self.classification_head = ClassificationHead(self.config, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[Seq2SeqInputs],
    ) -> LEDSeq2SeqSequenceClassifierOutput:
        if input_ids is None:
            raise NotImplementedError("LEDForSequenceClassification reads the eos in input_ids; inputs_embeds has none")
        is_eos, c = self._eos(input_ids), self.config
        out = self.base(input_ids, return_dict=True, **inputs)
        states = out.last_hidden_state
        if is_eos.shape != states.shape[:2]:
            raise ValueError(
                f"the decoder's states are read at the last eos of input_ids: both have the same length; "
                f"input_ids {is_eos.shape}, decoder {states.shape[:2]}"
            )
        last = is_eos.shape[1] - 1 - jnp.argmax(is_eos[:, ::-1], axis=1)
        pooled = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
        counts = is_eos.sum(axis=1)
        pooled = jnp.where((counts == counts[0]).all() & (counts > 0)[:, None], pooled, jnp.nan)
        logits, loss = self.classification_head(pooled), None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), c.problem_type, c.num_labels)
        return self.make_output(LEDSeq2SeqSequenceClassifierOutput, return_dict, out, loss=loss, logits=logits)

    def _eos(self, input_ids) -> jax.Array:
        eos = self.config.eos_token_id
        if not isinstance(eos, int):
            raise ValueError(f"LEDForSequenceClassification needs one eos_token_id in its config, got {eos!r}")
        if is_concrete(input_ids) and not self.is_initializing():
            counts = (np.asarray(input_ids) == eos).sum(axis=-1)
            if np.unique(counts).size > 1 or counts.min() == 0:
                raise ValueError(
                    f"all sequences have the same number of eos ({eos}), at least one; got {counts.tolist()}"
                )
        return jnp.asarray(input_ids) == eos


class LEDForQuestionAnswering(
    LEDGlobalTokens[LEDSeq2SeqQuestionAnsweringModelOutput], Seq2SeqHead[LEDSeq2SeqQuestionAnsweringModelOutput]
):
    """Scores every decoder position as start and end of the answer. Takes the base model's arguments, and:

    start_positions, end_positions: int [B]; positions beyond the sequence are ignored.
    """

    body: ClassVar = LEDModel
    auto_classes = ("AutoModelForQuestionAnswering",)

    def setup_head(self):
        self.qa_outputs = classifier_layer(self.config, 2, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        start_positions: jax.Array | None = None,
        end_positions: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[Seq2SeqInputs],
    ) -> LEDSeq2SeqQuestionAnsweringModelOutput:
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions and end_positions go together: give both or neither")
        out = self.base(input_ids, return_dict=True, **inputs)
        start, end = span_logits(self.qa_outputs, out.last_hidden_state)
        loss = None
        if start_positions is not None:
            loss = span_loss(start, end, jnp.asarray(start_positions), jnp.asarray(end_positions))
        output = LEDSeq2SeqQuestionAnsweringModelOutput
        return self.make_output(output, return_dict, out, loss=loss, start_logits=start, end_logits=end)
