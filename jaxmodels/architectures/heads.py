"""Heads, and parts of heads, that serve several bases: language model, classification, question answering."""

from typing import ClassVar, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model, RunOptions
from jaxmodels.architectures.inputs import TransformerInputs, check_shape, refuse_cache
from jaxmodels.arrays import Logits, TokenIds
from jaxmodels.config import Config
from jaxmodels.layers.linear import Linear, VocabProjection, dropout, scaled_normal
from jaxmodels.layers.losses import cross_entropy, next_token_loss, span_loss
from jaxmodels.outputs import (
    CausalLMOutputWithCrossAttentions,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)


def classifier_layer(config: Config, features: int, options: RunOptions, use_bias: bool = True) -> Linear:
    """A projection of hidden states in a head; its few outputs are never sharded."""
    init = scaled_normal(config.initializer_range)
    return Linear((features,), ("embed", None), init, use_bias, **options.dtypes)


def vocab_projection(config: Config, options: RunOptions, std: float | None = None) -> VocabProjection:
    """From hidden states to logits, tied to the token embeddings as the config says.

    Args:
      std: of the initial kernel of an untied projection; None: the config's initializer_range.
    """
    init = scaled_normal(config.initializer_range if std is None else std)
    tied = config.tie_word_embeddings
    return VocabProjection((config.vocab_size,), ("embed", "vocab"), init, False, tied=tied, **options.dtypes)


class ClassificationHead(nn.Module):
    """A sequence's state -> dense -> tanh -> scores of the labels, with dropout before each (docs/parity.md, R9)."""

    config: Config
    options: RunOptions

    def setup(self):
        self.dense = classifier_layer(self.config, self.config.hidden_size, self.options)
        self.out_proj = classifier_layer(self.config, self.config.num_labels or 0, self.options)

    def __call__(self, states: jax.Array) -> jax.Array:
        """[B,D] -> float32 [B,num_labels]."""
        rate = self.config.head_dropout
        x = jnp.tanh(self.dense(dropout(self, states, rate)))
        return self.out_proj(dropout(self, x, rate)).astype(jnp.float32)


class ForCausalLM(Model[CausalLMOutputWithCrossAttentions]):
    """Language model. Takes the base model's arguments, and:

    labels: int [B,T], shifted inside; -100 is ignored.
    logits_to_keep: compute logits of the last that many positions only (0: all); the loss then covers them only.
    """

    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM", "AutoModelForPreTraining", "AutoModelWithLMHead")

    def setup_head(self):
        self.lm_head = vocab_projection(self.config, self.options)

    def check_causal(self) -> None:
        """Warns of a config whose base model is not causal."""

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> CausalLMOutputWithCrossAttentions:
        self.check_causal()
        out = self.base(input_ids, return_dict=True, **inputs)
        logits: Logits = self.lm_head(out.last_hidden_state[..., -logits_to_keep:, :], self.base.token_embeddings)
        loss = None
        if labels is not None:
            labels = check_shape("labels", labels, out.last_hidden_state.shape[:-1])
            loss = next_token_loss(logits, labels[..., -logits_to_keep:])
        return self.make_output(CausalLMOutputWithCrossAttentions, return_dict, out, loss=loss, logits=logits)


class ForTokenClassification(Model[TokenClassifierOutput]):
    """One label per token. Takes the base model's arguments without a cache, and:

    labels: int [B,T], -100 is ignored.
    """

    auto_classes = ("AutoModelForTokenClassification",)

    def setup_head(self):
        self.classifier = classifier_layer(self.config, self.config.num_labels or 0, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> TokenClassifierOutput:
        refuse_cache(inputs.get("cache"))
        out = self.base(input_ids, return_dict=True, **inputs)
        states = dropout(self, out.last_hidden_state, self.config.head_dropout)
        logits = self.classifier(states).astype(jnp.float32)
        loss = None if labels is None else cross_entropy(logits, check_shape("labels", labels, logits.shape[:-1]))
        return self.make_output(TokenClassifierOutput, return_dict, out, loss=loss, logits=logits)


class ForQuestionAnswering(Model[QuestionAnsweringModelOutput]):
    """Extractive question answering. Takes the base model's arguments without a cache, and:

    start_positions, end_positions: int [B]; positions beyond the sequence are ignored.
    """

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
        **inputs: Unpack[TransformerInputs],
    ) -> QuestionAnsweringModelOutput:
        refuse_cache(inputs.get("cache"))
        out = self.base(input_ids, return_dict=True, **inputs)
        start, end = span_logits(self.qa_outputs, out.last_hidden_state)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, jnp.asarray(start_positions), jnp.asarray(end_positions))
        return self.make_output(
            QuestionAnsweringModelOutput, return_dict, out, loss=loss, start_logits=start, end_logits=end
        )


def span_logits(layer: Linear, states: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores of every position as start and as end of the answer, float32 [B,T] each, from states [B,T,D]."""
    start, end = jnp.moveaxis(layer(states).astype(jnp.float32), -1, 0)
    return start, end
