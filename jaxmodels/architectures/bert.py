"""BERT (Devlin et al., 2018, arXiv:1810.04805; reference: transformers/models/bert)."""

from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp

from jaxmodels.architectures import encoder_heads as heads
from jaxmodels.architectures.bert_like import (
    BUFFERS,
    OLD_NAMES,
    POST_NORM_HEAD_RULES,
    POST_NORM_RULES,
    BertHeadsConfig,
)
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.heads import classifier_layer
from jaxmodels.architectures.inputs import TransformerInputs, check_shape, refuse_cache
from jaxmodels.architectures.rules import dense_rules, norm_rules
from jaxmodels.arrays import Logits, Loss, TokenIds
from jaxmodels.config.fields import TokenId
from jaxmodels.convert import Rule, Table
from jaxmodels.layers.linear import dropout
from jaxmodels.layers.losses import cross_entropy
from jaxmodels.outputs import Output


class BertConfig(BertHeadsConfig):
    """Configuration of BERT, with Hugging Face's names and defaults."""

    model_type: ClassVar[str] = "bert"

    pad_token_id: TokenId | None = 0


TABLE = Table(
    base="bert",
    rules=POST_NORM_RULES,
    heads=(
        *POST_NORM_HEAD_RULES,
        *dense_rules("cls.predictions.transform.dense", "lm_head/dense"),
        *norm_rules("cls.predictions.transform.LayerNorm", "lm_head/norm"),
        Rule("cls.predictions.bias", "lm_head/bias"),
        Rule("cls.predictions.decoder.weight", "lm_head/decoder/kernel", "v d -> d v"),
        *dense_rules("cls.seq_relationship", "seq_relationship"),
    ),
    ignored=BUFFERS,
    tied={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"},
    repeats={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    old_names=OLD_NAMES,
)


class BertForPreTrainingOutput(Output):
    """loss: float32 scalar; prediction_logits [B,T,V] and seq_relationship_logits [B,2], float32; hidden_states,
    attentions."""

    loss: Loss | None = None
    prediction_logits: Logits
    seq_relationship_logits: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None


class BertModel(EncoderModel):
    config_class = BertConfig
    table = TABLE


class BertForPreTraining(heads.EncoderHead[BertForPreTrainingOutput]):
    """Masked language model and next sentence prediction. Takes the base model's arguments without a cache, and:

    labels: int [B,T]; -100 positions are ignored.
    next_sentence_label: int [B], 0 where the second text follows the first. The loss needs both.
    """

    body = BertModel
    auto_classes = ("AutoModelForPreTraining",)
    pools = True

    def setup_head(self):
        self.lm_head = heads.LanguageHead(self.config, self.options)
        self.seq_relationship = classifier_layer(self.config, 2, self.options)

    def __call__(
        self,
        input_ids: TokenIds | None = None,
        *,
        labels: jax.Array | None = None,
        next_sentence_label: jax.Array | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[TransformerInputs],
    ) -> BertForPreTrainingOutput:
        refuse_cache(inputs.get("cache"))
        out, loss = self.base(input_ids, return_dict=True, **inputs), None
        logits = self.lm_head(out.last_hidden_state, self.base.token_embeddings)
        follows = self.seq_relationship(out.pooler_output).astype(jnp.float32)
        if labels is not None and next_sentence_label is not None:
            loss = cross_entropy(logits, check_shape("labels", labels, logits.shape[:-1]))
            loss += cross_entropy(follows, jnp.asarray(next_sentence_label).reshape(-1))
        fields = {"prediction_logits": logits, "seq_relationship_logits": follows}
        return self.make_output(BertForPreTrainingOutput, return_dict, out, loss=loss, **fields)


class BertForMaskedLM(heads.EncoderForMaskedLM):
    body = BertModel
    auto_classes = ("AutoModelForMaskedLM", "AutoModelWithLMHead")


class BertLMHeadModel(heads.EncoderForCausalLM):
    body = BertModel


class BertForNextSentencePrediction(heads.EncoderForNextSentencePrediction):
    body = BertModel


class BertForSequenceClassification(heads.EncoderForSequenceClassification):
    body = BertModel
    pools = True

    def setup_head(self):
        self.classifier = classifier_layer(self.config, self.config.num_labels or 0, self.options)

    def scores(self, out: Any) -> jax.Array:
        pooled = dropout(self, out.pooler_output, self.config.head_dropout)
        return self.classifier(pooled).astype(jnp.float32)


class BertForMultipleChoice(heads.EncoderForMultipleChoice):
    body = BertModel

    @property
    def pooled_dropout(self) -> float:
        return self.config.head_dropout


class BertForTokenClassification(heads.EncoderForTokenClassification):
    body = BertModel


class BertForQuestionAnswering(heads.EncoderForQuestionAnswering):
    body = BertModel
