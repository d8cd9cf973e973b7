"""RoBERTa-PreLayerNorm: RoBERTa with pre-norm layers (reference: .../modeling_roberta_prelayernorm.py).

The checkpoints are those of Wettig et al., "Should You Mask 15% in Masked Language Modeling?", 2022 (arXiv:2202.08005).
"""

from jaxmodels.architectures import encoder_heads as heads
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.roberta_prelayernorm.config import RobertaPreLayerNormConfig
from jaxmodels.architectures.roberta_prelayernorm.weights import TABLE


class RobertaPreLayerNormModel(EncoderModel):
    __doc__ = EncoderModel.__doc__

    config_class = RobertaPreLayerNormConfig
    table = TABLE
    pre_norm = True
    counts_tokens = True


class RobertaPreLayerNormForMaskedLM(heads.EncoderForMaskedLM):
    __doc__ = heads.EncoderForMaskedLM.__doc__
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForCausalLM(heads.EncoderForCausalLM):
    __doc__ = heads.EncoderForCausalLM.__doc__
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForSequenceClassification(heads.EncoderForSequenceClassification):
    __doc__ = heads.EncoderForSequenceClassification.__doc__
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForMultipleChoice(heads.EncoderForMultipleChoice):
    __doc__ = heads.EncoderForMultipleChoice.__doc__
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForTokenClassification(heads.EncoderForTokenClassification):
    __doc__ = heads.EncoderForTokenClassification.__doc__
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForQuestionAnswering(heads.EncoderForQuestionAnswering):
    __doc__ = heads.EncoderForQuestionAnswering.__doc__
    body = RobertaPreLayerNormModel
