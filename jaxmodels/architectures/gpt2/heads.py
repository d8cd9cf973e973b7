"""GPT-2 with its heads (reference: transformers/models/gpt2/modeling_gpt2.py)."""

import warnings

import jax
import jax.numpy as jnp

from jaxmodels.architectures.gpt2.config import GPT2Config
from jaxmodels.architectures.gpt2.model import GPT2Model, GPT2PreTrainedModel
from jaxmodels.architectures.gpt2.summary import SequenceSummary
from jaxmodels.architectures.inputs import check_shape, refuse_cache
from jaxmodels.layers.linear import Linear, dropout, scaled_normal
from jaxmodels.layers.losses import classification_loss, cross_entropy, next_token_loss, span_loss
from jaxmodels.outputs import (
    CausalLMOutputWithCrossAttentions,
    Output,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


class GPT2DoubleHeadsModelOutput(Output):
    """loss, mc_loss: float32 scalars; logits [B,choices,T,V], mc_logits [B,choices] float32."""

    loss: jax.Array | None = None
    mc_loss: jax.Array | None = None
    logits: jax.Array | None = None
    mc_logits: jax.Array | None = None
    cache: object | None = None
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class _WithHead(GPT2PreTrainedModel):
    """A base model named as in the checkpoints, and what every head does with it."""

    body = GPT2Model

    def setup(self):
        self.transformer = GPT2Model(self.config, **self.choices)
        self.setup_head()

    def setup_head(self):
        raise NotImplementedError

    def run(self, args: tuple, options: dict) -> tuple[object, jax.Array]:
        """The base model's output and its last hidden states [...,T,D]."""
        out = self.transformer(*args, **{**options, "return_dict": True})
        return out, out.last_hidden_state

    def linear(self, features: int, use_bias: bool, config: GPT2Config | None = None) -> Linear:
        """A classifier over hidden states; its few outputs are never sharded."""
        std = (config or self.config).initializer_range
        return Linear((features,), ("embed", None), scaled_normal(std), use_bias, self.dtype, self.param_dtype)


class _WithLanguageHead(_WithHead):
    def setup_head(self):
        c = self.config
        if not c.tie_word_embeddings:
            init = scaled_normal(c.initializer_range)
            self.lm_head = Linear((c.vocab_size,), ("embed", "vocab"), init, False, self.dtype, self.param_dtype)

    def language_logits(self, states: jax.Array) -> jax.Array:
        """[...,T,V] in float32 from the tied word embeddings, or from the head of an untied checkpoint."""
        if self.config.tie_word_embeddings:
            return self.transformer.wte.attend(states)
        return self.lm_head(states).astype(jnp.float32)


class GPT2LMHeadModel(_WithLanguageHead):
    """Language model. Takes GPT2Model's arguments, and:

    labels: int [B,T], shifted inside; -100 is ignored.
    logits_to_keep: compute logits of the last that many positions only (0: all); the loss then covers them only.
    """

    def __call__(self, *args, labels: jax.Array | None = None, logits_to_keep: int = 0, **options):
        out, states = self.run(args, options)
        states = states[..., -logits_to_keep:, :]
        logits = self.language_logits(states)
        loss = None
        if labels is not None:
            labels = check_shape("labels", labels, out.last_hidden_state.shape[:-1])
            loss = next_token_loss(logits, labels[..., -logits_to_keep:])
        sides = {name: getattr(out, name) for name in ("cache", "hidden_states", "attentions", "cross_attentions")}
        return self.answer(
            CausalLMOutputWithCrossAttentions(loss=loss, logits=logits, **sides), options.get("return_dict")
        )


class GPT2DoubleHeadsModel(_WithLanguageHead):
    """Language model and multiple choice. Takes GPT2Model's arguments (ids [B,choices,T]), and:

    mc_token_ids: int [B,choices], the token that stands for each choice; default the last.
    labels: int [B,choices,T], shifted inside. mc_labels: int [B], the right choice.
    """

    def setup_head(self):
        super().setup_head()
        # The reference's class overwrites the number of labels: one score per choice (docs/parity.md, G13).
        config = self.config.replace(num_labels=1)
        self.multiple_choice_head = SequenceSummary(config, self.dtype, self.param_dtype)

    def __call__(self, *args, mc_token_ids=None, labels=None, mc_labels=None, **options):
        out, states = self.run(args, options)
        logits = self.language_logits(states)
        mc_logits = self.multiple_choice_head(states, mc_token_ids)
        if mc_logits.shape[-1] == 1:
            mc_logits = mc_logits[..., 0]
        loss = mc_loss = None
        if labels is not None:
            loss = next_token_loss(logits, check_shape("labels", labels, states.shape[:-1]))
        if mc_labels is not None:
            mc_loss = cross_entropy(mc_logits.reshape(-1, mc_logits.shape[-1]), jnp.asarray(mc_labels).reshape(-1))
        result = GPT2DoubleHeadsModelOutput(
            loss=loss,
            mc_loss=mc_loss,
            logits=logits,
            mc_logits=mc_logits,
            cache=out.cache,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        return self.answer(result, options.get("return_dict"))


class GPT2ForSequenceClassification(_WithHead):
    """One label per text, read at its last token. Takes GPT2Model's arguments, and:

    labels: [B] int (classification), or float [B] / [B,num_labels] (regression, several labels).

    Raises ValueError for more than one row where the config has no pad_token_id: the last token would be unknown.
    """

    def setup_head(self):
        self.score = self.linear(self.config.num_labels, use_bias=False)

    def __call__(self, input_ids=None, *, labels=None, inputs_embeds=None, **options):
        out, states = self.run((input_ids,), {"inputs_embeds": inputs_embeds, **options})
        if states.ndim != 3:
            raise ValueError(f"{type(self).__name__} reads input_ids [B,T], got {states.shape[:-1]}")
        last = self._last_token(input_ids, *states.shape[:2])
        # Pooling the states before scoring them gives the reference's numbers without T-1 unused scores.
        logits = self.score(jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]).astype(jnp.float32)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), self.config.problem_type, self.config.num_labels)
        result = SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, cache=out.cache, hidden_states=out.hidden_states, attentions=out.attentions
        )
        return self.answer(result, options.get("return_dict"))

    def _last_token(self, input_ids, batch: int, length: int) -> jax.Array:
        """[B]: the rightmost token that is not the pad id, whatever the attention mask says (docs/parity.md, G15)."""
        pad = self.config.pad_token_id
        if pad is None and batch > 1:
            raise ValueError("classifying more than one row needs config.pad_token_id, to find each row's last token")
        if pad is None or input_ids is None:
            if input_ids is None and pad is not None:
                warnings.warn(
                    "inputs_embeds do not show which tokens are padding: the last position is read", stacklevel=2
                )
            return jnp.full((batch,), length - 1)
        real = jnp.asarray(input_ids) != pad
        return jnp.argmax(jnp.where(real, jnp.arange(length), 0), axis=-1)


class GPT2ForTokenClassification(_WithHead):
    """One label per token. Takes GPT2Model's arguments without a cache, and labels: int [B,T], -100 is ignored."""

    def setup_head(self):
        self.classifier = self.linear(self.config.num_labels, use_bias=True)

    def __call__(self, *args, labels=None, **options):
        refuse_cache(options)
        c = self.config
        out, states = self.run(args, options)
        rates = [rate for rate in (c.classifier_dropout, c.hidden_dropout, 0.1) if rate is not None]
        logits = self.classifier(dropout(self, states, rates[0])).astype(jnp.float32)
        loss = None if labels is None else cross_entropy(logits, check_shape("labels", labels, states.shape[:-1]))
        result = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )
        return self.answer(result, options.get("return_dict"))


class GPT2ForQuestionAnswering(_WithHead):
    """Extractive answers. Takes GPT2Model's arguments without a cache, and start_positions, end_positions: int [B]."""

    def setup_head(self):
        self.qa_outputs = self.linear(2, use_bias=True)

    def __call__(self, *args, start_positions=None, end_positions=None, **options):
        refuse_cache(options)
        out, states = self.run(args, options)
        start, end = jnp.moveaxis(self.qa_outputs(states).astype(jnp.float32), -1, 0)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, jnp.asarray(start_positions), jnp.asarray(end_positions))
        result = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, hidden_states=out.hidden_states, attentions=out.attentions
        )
        return self.answer(result, options.get("return_dict"))
