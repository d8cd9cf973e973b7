"""RoBERTa-PreLayerNorm's heads (reference: .../modeling_roberta_prelayernorm.py)."""

import warnings
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.bert_like import linear
from jaxmodels.architectures.inputs import check_shape, refuse_cache
from jaxmodels.architectures.roberta_prelayernorm.config import RobertaPreLayerNormConfig
from jaxmodels.architectures.roberta_prelayernorm.model import (
    RobertaPreLayerNormModel,
    RobertaPreLayerNormPreTrainedModel,
)
from jaxmodels.layers.activations import activation
from jaxmodels.layers.linear import Linear, dropout, layer_norm, scaled_normal
from jaxmodels.layers.losses import classification_loss, cross_entropy, next_token_loss, span_loss
from jaxmodels.outputs import (
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    Output,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class _WithHead(RobertaPreLayerNormPreTrainedModel):
    """A base model named as in the checkpoints, and what every head does with it."""

    body = RobertaPreLayerNormModel
    pools = False

    def setup(self):
        self.roberta_prelayernorm = RobertaPreLayerNormModel(self.config, add_pooling_layer=self.pools, **self.choices)
        self.setup_head()

    def setup_head(self):
        raise NotImplementedError

    def run(self, args: tuple, options: dict):
        """The base model's output."""
        return self.roberta_prelayernorm(*args, **{**options, "return_dict": True})

    def finish(self, kind: type[Output], out, options: dict, **fields) -> Output | tuple:
        """The head's own fields, and what the base model captured of those that this kind of output has."""
        names = ("cache", "hidden_states", "attentions", "cross_attentions")
        captured = {name: getattr(out, name) for name in names if name in kind.__dataclass_fields__}
        return self.answer(kind(**fields, **captured), options.get("return_dict"))


class LanguageHead(Configured):
    """Hidden states -> dense -> gelu -> norm -> scores of the words, with a bias (docs/parity.md, R8)."""

    config: RobertaPreLayerNormConfig

    def setup(self):
        c = self.config
        self.dense = linear(c, c.hidden_size, **self.kinds)
        self.norm = layer_norm(c.layer_norm_eps, self.dtype, self.param_dtype)
        if not c.tie_word_embeddings:
            init = scaled_normal(c.initializer_range)
            self.decoder = Linear((c.vocab_size,), ("embed", "vocab"), init, False, self.dtype, self.param_dtype)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
        self.bias = self.param("bias", zeros, (c.vocab_size,), self.param_dtype)

    def __call__(self, states: jax.Array, attend: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """states [...,T,D] -> float32 [...,T,V]; `attend` multiplies with the word embeddings."""
        x = self.norm(activation("gelu")(self.dense(states)))
        scores = attend(x) if self.config.tie_word_embeddings else self.decoder(x).astype(jnp.float32)
        return scores + self.bias.astype(jnp.float32)


class _WithLanguageHead(_WithHead):
    def setup_head(self):
        self.lm_head = LanguageHead(self.config, **self.choices)

    def language_logits(self, states: jax.Array) -> jax.Array:
        return self.lm_head(states, self.roberta_prelayernorm.embeddings.word_embeddings.attend)


class RobertaPreLayerNormForMaskedLM(_WithLanguageHead):
    """Masked language model. Takes RobertaPreLayerNormModel's arguments without a cache, and:

    labels: int [B,T], -100 where the loss looks away.
    """

    def __call__(self, *args, labels: jax.Array | None = None, **options):
        refuse_cache(options)
        if self.config.is_decoder:
            warnings.warn("a masked language model reads both ways, but this config has is_decoder=True", stacklevel=2)
        out = self.run(args, options)
        logits = self.language_logits(out.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, check_shape("labels", labels, logits.shape[:-1]))
        return self.finish(MaskedLMOutput, out, options, loss=loss, logits=logits)


class RobertaPreLayerNormForCausalLM(_WithLanguageHead):
    """Language model, to be used with `is_decoder=True`. Takes RobertaPreLayerNormModel's arguments, and:

    labels: int [B,T], shifted inside; -100 is ignored.
    logits_to_keep: compute logits of the last that many positions only (0: all); the loss then covers them only.
    """

    def __call__(self, *args, labels: jax.Array | None = None, logits_to_keep: int = 0, **options):
        if not self.config.is_decoder:
            warnings.warn("without is_decoder=True in the config every token sees those after it", stacklevel=2)
        out = self.run(args, options)
        logits = self.language_logits(out.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            labels = check_shape("labels", labels, out.last_hidden_state.shape[:-1])
            loss = next_token_loss(logits, labels[:, -logits_to_keep:])
        return self.finish(CausalLMOutputWithCrossAttentions, out, options, loss=loss, logits=logits)


class ClassificationHead(Configured):
    """State of the first token -> dense -> tanh -> scores of the labels, dropout before each (docs/parity.md, R9)."""

    config: RobertaPreLayerNormConfig

    def setup(self):
        self.dense = linear(self.config, self.config.hidden_size, **self.kinds)
        self.out_proj = linear(self.config, self.config.num_labels, **self.kinds)

    def __call__(self, states: jax.Array) -> jax.Array:
        """states [B,T,D] -> float32 [B,num_labels]."""
        rate = self.config.head_dropout
        x = jnp.tanh(self.dense(dropout(self, states[:, 0], rate)))
        return self.out_proj(dropout(self, x, rate)).astype(jnp.float32)


class RobertaPreLayerNormForSequenceClassification(_WithHead):
    """One label per text. Takes RobertaPreLayerNormModel's arguments without a cache, and:

    labels: [B] int (classification), or float [B] / [B,num_labels] (regression, several labels).
    """

    def setup_head(self):
        self.classifier = ClassificationHead(self.config, **self.choices)

    def __call__(self, *args, labels: jax.Array | None = None, **options):
        refuse_cache(options)
        out = self.run(args, options)
        logits = self.classifier(out.last_hidden_state)
        c, loss = self.config, None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), c.problem_type, c.num_labels)
        return self.finish(SequenceClassifierOutput, out, options, loss=loss, logits=logits)


class RobertaPreLayerNormForMultipleChoice(_WithHead):
    """One of several texts. Takes RobertaPreLayerNormModel's arguments without a cache, with a choices axis:

    input_ids, attention_mask, token_type_ids, position_ids: [B,choices,T]; inputs_embeds: [B,choices,T,D].
    labels: int [B], the right choice.
    """

    pools = True

    def dummy_inputs(self) -> dict[str, jax.Array]:
        return {name: array[None] for name, array in super().dummy_inputs().items()}

    def setup_head(self):
        self.classifier = linear(self.config, 1, **self.kinds)

    def __call__(self, input_ids=None, *, inputs_embeds=None, labels: jax.Array | None = None, **options):
        refuse_cache(options)
        texts = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        texts |= {name: options.get(name) for name in ("attention_mask", "token_type_ids", "position_ids")}
        shapes = {name: jnp.shape(value) for name, value in texts.items() if value is not None}
        for name, shape in shapes.items():
            rank = 4 if name == "inputs_embeds" else 3
            if len(shape) != rank:
                raise ValueError(f"{name} has shape [B,choices,T{',D' if rank == 4 else ''}], got {shape}")
        choices = next(iter(shapes.values()), (0, 0))[1]
        rows = {name: jnp.asarray(texts[name]).reshape(-1, *shape[2:]) for name, shape in shapes.items()}
        out = self.run((), {**options, **rows})
        pooled = dropout(self, out.pooler_output, self.config.hidden_dropout_prob)
        logits = self.classifier(pooled).astype(jnp.float32).reshape(-1, choices)
        loss = None if labels is None else cross_entropy(logits, jnp.asarray(labels))
        return self.finish(MultipleChoiceModelOutput, out, options, loss=loss, logits=logits)


class RobertaPreLayerNormForTokenClassification(_WithHead):
    """One label per token. Takes RobertaPreLayerNormModel's arguments without a cache, and:

    labels: int [B,T], -100 is ignored.
    """

    def setup_head(self):
        self.classifier = linear(self.config, self.config.num_labels, **self.kinds)

    def __call__(self, *args, labels: jax.Array | None = None, **options):
        refuse_cache(options)
        out = self.run(args, options)
        logits = self.classifier(dropout(self, out.last_hidden_state, self.config.head_dropout)).astype(jnp.float32)
        loss = None if labels is None else cross_entropy(logits, check_shape("labels", labels, logits.shape[:-1]))
        return self.finish(TokenClassifierOutput, out, options, loss=loss, logits=logits)


class RobertaPreLayerNormForQuestionAnswering(_WithHead):
    """Extractive answers. Takes RobertaPreLayerNormModel's arguments without a cache, and:

    start_positions, end_positions: int [B]; positions beyond the text are ignored.

    Raises ValueError for a config whose num_labels is not 2, start and end.
    """

    def setup_head(self):
        if self.config.num_labels != 2:
            raise ValueError(f"question answering has 2 labels, start and end; num_labels={self.config.num_labels}")
        self.qa_outputs = linear(self.config, 2, **self.kinds)

    def __call__(self, *args, start_positions=None, end_positions=None, **options):
        refuse_cache(options)
        out = self.run(args, options)
        start, end = jnp.moveaxis(self.qa_outputs(out.last_hidden_state).astype(jnp.float32), -1, 0)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, jnp.asarray(start_positions), jnp.asarray(end_positions))
        scores = {"loss": loss, "start_logits": start, "end_logits": end}
        return self.finish(QuestionAnsweringModelOutput, out, options, **scores)
