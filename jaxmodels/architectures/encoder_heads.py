"""The heads of BERT's relatives, over an `EncoderModel`."""

import warnings
from typing import Any, ClassVar, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures import heads
from jaxmodels.architectures.base import Model, OutputT, RunOptions
from jaxmodels.architectures.bert_like import BertHeadsConfig
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.heads import classifier_layer, vocab_projection
from jaxmodels.architectures.inputs import TransformerInputs, check_shape, refuse_cache
from jaxmodels.arrays import TokenIds
from jaxmodels.layers.feed_forward import activation
from jaxmodels.layers.linear import Embedding, dropout, layer_norm
from jaxmodels.layers.losses import classification_loss, cross_entropy
from jaxmodels.outputs import (
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class EncoderHead(Model[OutputT]):
    """What the heads share.

    Class attributes:
      pools: the head reads `pooler_output`.
    """

    body: ClassVar[type[EncoderModel]]
    pools: ClassVar[bool] = False

    @property
    def body_options(self) -> dict[str, Any]:
        return {**self.options.keywords, "add_pooling_layer": self.pools}


class LanguageHead(nn.Module):
    """Hidden states -> dense -> activation -> norm -> logits over the vocabulary, with a bias.

    docs/parity.md, BE5 and R8.
    """

    config: BertHeadsConfig
    options: RunOptions

    def setup(self):
        c = self.config
        self.dense = classifier_layer(c, c.hidden_size, self.options)
        self.norm = layer_norm(c.layer_norm_eps, **self.options.dtypes)
        self.decoder = vocab_projection(c, self.options)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("vocab",))
        self.bias = self.param("bias", zeros, (c.vocab_size,), self.options.param_dtype)

    def __call__(self, states: jax.Array, embeddings: Embedding) -> jax.Array:
        """states [...,T,D] -> float32 [...,T,V]."""
        x = self.norm(activation(self.config.head_act)(self.dense(states)))
        return self.decoder(x, embeddings) + self.bias.astype(jnp.float32)


class EncoderForMaskedLM(EncoderHead[MaskedLMOutput]):
    """Masked language model. Takes the base model's arguments without a cache, and:

    labels: int [B,T]; -100 positions are ignored.
    """

    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModelWithLMHead")

    def setup_head(self):
        self.lm_head = LanguageHead(self.config, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> MaskedLMOutput:
        refuse_cache(inputs.get("cache"))
        if self.config.is_decoder:
            warnings.warn("a masked language model attends both ways, but config has is_decoder=True", stacklevel=2)
        out = self.base(input_ids, return_dict=True, **inputs)
        logits = self.lm_head(out.last_hidden_state, self.base.token_embeddings)
        loss = None if labels is None else cross_entropy(logits, check_shape("labels", labels, logits.shape[:-1]))
        return self.make_output(MaskedLMOutput, return_dict, out, loss=loss, logits=logits)


class EncoderForCausalLM(heads.ForCausalLM, EncoderHead[CausalLMOutputWithCrossAttentions]):
    """Language model, to be used with `is_decoder=True`. Takes the base model's arguments, and:

    labels: int [B,T], shifted inside; -100 is ignored.
    logits_to_keep: compute logits of the last that many positions only (0: all); the loss then covers them only.
    """

    auto_classes = ("AutoModelForCausalLM",)

    def setup_head(self):
        self.lm_head = LanguageHead(self.config, self.options)

    def check_causal(self) -> None:
        if not self.config.is_decoder:
            warnings.warn("without is_decoder=True in the config every token sees those after it", stacklevel=3)


class EncoderForSequenceClassification(EncoderHead[SequenceClassifierOutput]):
    """One label per sequence. Takes the base model's arguments without a cache, and:

    labels: [B] int (classification), or float [B] / [B,num_labels] (regression, several labels).
    """

    auto_classes = ("AutoModelForSequenceClassification",)

    def setup_head(self):
        self.classifier = heads.ClassificationHead(self.config, self.options)

    def scores(self, out: Any) -> jax.Array:
        """float32 [B,num_labels], from the base model's output."""
        return self.classifier(out.last_hidden_state[:, 0])

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> SequenceClassifierOutput:
        refuse_cache(inputs.get("cache"))
        out, c = self.base(input_ids, return_dict=True, **inputs), self.config
        logits, loss = self.scores(out), None
        if labels is not None:
            loss = classification_loss(logits, jnp.asarray(labels), c.problem_type, c.num_labels)
        return self.make_output(SequenceClassifierOutput, return_dict, out, loss=loss, logits=logits)


class EncoderForNextSentencePrediction(EncoderHead[NextSentencePredictorOutput]):
    """Whether the second text follows the first. Takes the base model's arguments without a cache, and:

    labels: int [B], 0 where it does.
    """

    auto_classes = ("AutoModelForNextSentencePrediction",)

    pools = True

    def setup_head(self):
        self.seq_relationship = classifier_layer(self.config, 2, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> NextSentencePredictorOutput:
        refuse_cache(inputs.get("cache"))
        out = self.base(input_ids, return_dict=True, **inputs)
        logits = self.seq_relationship(out.pooler_output).astype(jnp.float32)
        loss = None if labels is None else cross_entropy(logits, jnp.asarray(labels).reshape(-1))
        return self.make_output(NextSentencePredictorOutput, return_dict, out, loss=loss, logits=logits)


class EncoderForMultipleChoice(EncoderHead[MultipleChoiceModelOutput]):
    """One of several sequences. Takes the base model's arguments without a cache, with a choices axis:

    input_ids, attention_mask, token_type_ids, position_ids: [B,choices,T]; inputs_embeds: [B,choices,T,D].
    labels: int [B], the right choice.
    """

    auto_classes = ("AutoModelForMultipleChoice",)

    pools = True

    @property
    def pooled_dropout(self) -> float:
        """Rate before the classifier."""
        return self.config.hidden_dropout_prob

    def dummy_inputs(self) -> dict[str, jax.Array]:
        return {name: array[None] for name, array in super().dummy_inputs().items()}

    def setup_head(self):
        self.classifier = classifier_layer(self.config, 1, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> MultipleChoiceModelOutput:
        refuse_cache(inputs.get("cache"))
        arguments: dict[str, Any] = {"input_ids": input_ids, **inputs}
        names = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
        shapes = {name: jnp.shape(arguments[name]) for name in names if arguments.get(name) is not None}
        for name, shape in shapes.items():
            rank = 4 if name == "inputs_embeds" else 3
            if len(shape) != rank:
                raise ValueError(f"{name} has shape {shape}, expected [B,choices,T{',D' if rank == 4 else ''}]")
        choices = next(iter(shapes.values()), (0, 0))[1]
        flat = {name: jnp.asarray(arguments[name]).reshape(-1, *shape[2:]) for name, shape in shapes.items()}
        out = self.base(**{**arguments, **flat}, return_dict=True)
        pooled = dropout(self, out.pooler_output, self.pooled_dropout)
        logits = self.classifier(pooled).astype(jnp.float32).reshape(-1, choices)
        loss = None if labels is None else cross_entropy(logits, jnp.asarray(labels))
        return self.make_output(MultipleChoiceModelOutput, return_dict, out, loss=loss, logits=logits)


class EncoderForTokenClassification(heads.ForTokenClassification, EncoderHead[TokenClassifierOutput]):
    pass


class EncoderForQuestionAnswering(heads.ForQuestionAnswering, EncoderHead[QuestionAnsweringModelOutput]):
    """Extractive question answering. Takes the base model's arguments without a cache, and:

    start_positions, end_positions: int [B]; positions beyond the sequence are ignored.

    Raises ValueError for a config whose num_labels is not 2, start and end.
    """

    def setup_head(self):
        if self.config.num_labels != 2:
            raise ValueError(f"question answering has 2 labels, start and end; num_labels={self.config.num_labels}")
        super().setup_head()
