"""GPT-2 (Radford et al., 2019; reference: transformers/models/gpt2/modeling_gpt2.py)."""

from functools import partial
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.decoder import DecoderForSequenceClassification, DecoderModel
from jaxmodels.architectures.gpt2.config import GPT2Config
from jaxmodels.architectures.gpt2.weights import TABLE
from jaxmodels.architectures.heads import ForCausalLM, ForQuestionAnswering, ForTokenClassification, vocab_projection
from jaxmodels.architectures.inputs import TransformerInputs, check_ids, check_shape
from jaxmodels.arrays import TokenIds
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.feed_forward import FeedForward, activation
from jaxmodels.layers.inputs import AttentionInputs, PerLayer
from jaxmodels.layers.linear import Linear, dropout, layer_norm, scaled_normal
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

    def attention_inputs(self, positions: TokenIds) -> AttentionInputs:
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


class GPT2LMHeadModel(ForCausalLM):
    body = GPT2Model


class GPT2ForSequenceClassification(DecoderForSequenceClassification):
    body = GPT2Model


class GPT2ForTokenClassification(ForTokenClassification):
    body = GPT2Model


class GPT2ForQuestionAnswering(ForQuestionAnswering):
    body = GPT2Model


class SequenceSummary(nn.Module):
    """Pick -> dropout -> projection -> activation -> dropout, each as configured."""

    config: GPT2Config
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: jax.Array, cls_index: jax.Array | None = None) -> jax.Array:
        """states [...,T,D], cls_index int [...] -> [...,num_labels or D] in float32."""
        c = self.config
        x = dropout(self, self._pick(states, cls_index), c.summary_first_dropout)
        if c.summary_use_proj:
            labels = c.num_labels or 0
            features = labels if c.summary_proj_to_labels and labels > 0 else c.n_embd
            # torch's Linear, not GPT-2's Conv1D; the initialization is the same.
            init = scaled_normal(c.initializer_range)
            x = Linear((features,), ("embed", None), init, True, self.dtype, self.param_dtype, name="summary")(x)
        x = x.astype(jnp.float32)
        if c.summary_activation:
            x = activation(c.summary_activation)(x)
        return dropout(self, x, c.summary_last_dropout)

    def _pick(self, states, cls_index):
        # The first three act on axis 1, which for [B,choices,T,D] is the choices: the reference does so.
        kind = self.config.summary_type
        if kind == "last":
            return states[:, -1]
        if kind == "first":
            return states[:, 0]
        if kind == "mean":
            return states.mean(axis=1)
        if cls_index is None:
            return states[..., -1, :]
        length = states.shape[-2]
        cls_index = check_ids("mc_token_ids", cls_index, length, "each sequence", ranks=(states.ndim - 2,))
        if cls_index.shape != states.shape[:-2]:
            raise ValueError(f"mc_token_ids has shape {states.shape[:-2]}, got {cls_index.shape}")
        cls_index = jnp.where(cls_index < 0, length, cls_index)  # outside is NaN under jit; -1 would be the last
        return jnp.take_along_axis(states, cls_index[..., None, None], axis=-2)[..., 0, :]


class GPT2DoubleHeadsModelOutput(Output):
    """loss, mc_loss: float32 scalars; logits [B,choices,T,V], mc_logits [B,choices] float32."""

    loss: jax.Array | None = None
    mc_loss: jax.Array | None = None
    logits: jax.Array
    mc_logits: jax.Array
    cache: Cache | None = None
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class GPT2DoubleHeadsModel(Model[GPT2DoubleHeadsModelOutput]):
    """Language model and multiple choice. Takes the base model's arguments (ids [B,choices,T]), and:

    mc_token_ids: int [B,choices], the token that stands for each choice; default the last.
    labels: int [B,choices,T], shifted inside. mc_labels: int [B], the right choice.
    """

    body = GPT2Model

    def setup_head(self):
        self.lm_head = vocab_projection(self.config, self.options)
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
        **inputs: Unpack[TransformerInputs],
    ) -> GPT2DoubleHeadsModelOutput:
        out = self.base(input_ids, return_dict=True, **inputs)
        states = out.last_hidden_state
        logits = self.lm_head(states, self.base.token_embeddings)
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
