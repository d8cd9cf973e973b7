"""GPT-2 (Radford et al., 2019; reference: transformers/models/gpt2/modeling_gpt2.py)."""

from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxmodels.architectures.decoder import (
    DecoderForCausalLM,
    DecoderForQuestionAnswering,
    DecoderForSequenceClassification,
    DecoderForTokenClassification,
    DecoderHead,
    DecoderInputs,
    DecoderModel,
)
from jaxmodels.architectures.gpt2.config import GPT2Config
from jaxmodels.architectures.gpt2.summary import SequenceSummary
from jaxmodels.architectures.gpt2.weights import TABLE
from jaxmodels.architectures.inputs import check_shape
from jaxmodels.arrays import TokenIds
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.feed_forward import FeedForward
from jaxmodels.layers.inputs import AttentionInputs, PerLayer
from jaxmodels.layers.linear import layer_norm, scaled_normal
from jaxmodels.layers.losses import cross_entropy, next_token_loss
from jaxmodels.layers.stack import Layer
from jaxmodels.outputs import Output


class GPT2Model(DecoderModel):
    """The transformer without a head. See `DecoderModel` for the arguments of a call."""

    config_class = GPT2Config
    table = TABLE

    config: GPT2Config

    @property
    def embedding_dropout(self) -> float:
        return self.config.embd_pdrop

    def attention_inputs(self) -> AttentionInputs:
        c = self.config
        scale = c.head_dim**-0.5 if c.scale_attn_weights else 1.0
        if c.scale_attn_by_inverse_layer_idx:
            return AttentionInputs(scale=PerLayer(scale / jnp.arange(1, c.n_layer + 1, dtype=jnp.float32)))
        return AttentionInputs(scale=scale)

    def layer(self) -> Layer:
        c, dtypes = self.config, self.options.dtypes
        init = scaled_normal(c.initializer_range)
        common: dict[str, Any] = {
            "kernel_init": init,
            "out_init": scaled_normal(c.initializer_range, c.n_layer),
            **dtypes,
        }
        attention = partial(
            Attention, c.n_head, c.head_dim, dropout=c.attn_pdrop, implementation=self.attention, **common
        )
        return Layer(
            attention=attention,
            cross_attention=partial(attention, cross=True) if c.add_cross_attention else None,
            feed_forward=partial(FeedForward, c.mlp_dim, c.activation_function, **common),
            norm=partial(layer_norm, c.layer_norm_epsilon, **dtypes),
            dropout=c.resid_pdrop,
            parent=None,
        )


class GPT2LMHeadModel(DecoderForCausalLM):
    __doc__ = DecoderForCausalLM.__doc__

    body = GPT2Model


class GPT2ForSequenceClassification(DecoderForSequenceClassification):
    __doc__ = DecoderForSequenceClassification.__doc__

    body = GPT2Model


class GPT2ForTokenClassification(DecoderForTokenClassification):
    __doc__ = DecoderForTokenClassification.__doc__

    body = GPT2Model

    @property
    def classifier_dropout(self) -> float:
        c = self.config
        return next(rate for rate in (c.classifier_dropout, c.hidden_dropout, 0.1) if rate is not None)


class GPT2ForQuestionAnswering(DecoderForQuestionAnswering):
    __doc__ = DecoderForQuestionAnswering.__doc__

    body = GPT2Model


class GPT2DoubleHeadsModelOutput(Output):
    """loss, mc_loss: float32 scalars; logits [B,choices,T,V], mc_logits [B,choices] float32."""

    loss: jax.Array | None = None
    mc_loss: jax.Array | None = None
    logits: jax.Array
    mc_logits: jax.Array
    cache: Cache | None = None
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class GPT2DoubleHeadsModel(DecoderHead[GPT2DoubleHeadsModelOutput]):
    """Language model and multiple choice. Takes the base model's arguments (ids [B,choices,T]), and:

    mc_token_ids: int [B,choices], the token that stands for each choice; default the last.
    labels: int [B,choices,T], shifted inside. mc_labels: int [B], the right choice.
    """

    body = GPT2Model

    def setup_head(self):
        self.setup_language_head()
        # The reference's class overwrites the number of labels: one score per choice (docs/parity.md, G13).
        self.multiple_choice_head = SequenceSummary(self.config.replace(num_labels=1), **self.options.dtypes)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        mc_token_ids: jax.Array | None = None,
        labels: jax.Array | None = None,
        mc_labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[DecoderInputs],
    ) -> GPT2DoubleHeadsModelOutput:
        out = self.base(input_ids, return_dict=True, **inputs)
        states = out.last_hidden_state
        logits = self.language_logits(states)
        mc_logits = self.multiple_choice_head(states, mc_token_ids)
        if mc_logits.shape[-1] == 1:
            mc_logits = mc_logits[..., 0]
        loss = mc_loss = None
        if labels is not None:
            loss = next_token_loss(logits, check_shape("labels", labels, states.shape[:-1]))
        if mc_labels is not None:
            mc_loss = cross_entropy(mc_logits.reshape(-1, mc_logits.shape[-1]), jnp.asarray(mc_labels).reshape(-1))
        return self.make_output(
            GPT2DoubleHeadsModelOutput,
            return_dict,
            out,
            loss=loss,
            mc_loss=mc_loss,
            logits=logits,
            mc_logits=mc_logits,
        )
