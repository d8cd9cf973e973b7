"""RoBERTa-PreLayerNorm."""

from jaxmodels.architectures.roberta_prelayernorm.config import RobertaPreLayerNormConfig
from jaxmodels.architectures.roberta_prelayernorm.heads import (
    RobertaPreLayerNormForCausalLM,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormForTokenClassification,
)
from jaxmodels.architectures.roberta_prelayernorm.model import (
    RobertaPreLayerNormModel,
    RobertaPreLayerNormPreTrainedModel,
)

__all__ = [
    "RobertaPreLayerNormConfig",
    "RobertaPreLayerNormForCausalLM",
    "RobertaPreLayerNormForMaskedLM",
    "RobertaPreLayerNormForMultipleChoice",
    "RobertaPreLayerNormForQuestionAnswering",
    "RobertaPreLayerNormForSequenceClassification",
    "RobertaPreLayerNormForTokenClassification",
    "RobertaPreLayerNormModel",
    "RobertaPreLayerNormPreTrainedModel",
]
