"""RoBERTa-PreLayerNorm: RoBERTa with pre-norm layers (reference: transformers/models/roberta_prelayernorm).

The checkpoints are those of Wettig et al., "Should You Mask 15% in Masked Language Modeling?", 2022 (arXiv:2202.08005).
"""

from typing import ClassVar

from jaxmodels.architectures import encoder_heads as heads
from jaxmodels.architectures.bert_like import EMBEDDING_RULES, HEAD_RULES, LAYER_RULES, LAYERS
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.roberta import RobertaLikeConfig, roberta_table
from jaxmodels.architectures.rules import norm_rules


class RobertaPreLayerNormConfig(RobertaLikeConfig):
    """Configuration of RoBERTa-PreLayerNorm, with Hugging Face's names and defaults."""

    model_type: ClassVar[str] = "roberta-prelayernorm"


class RobertaPreLayerNormModel(EncoderModel):
    config_class = RobertaPreLayerNormConfig
    table = roberta_table(
        "roberta_prelayernorm",
        rules=(
            *EMBEDDING_RULES,
            *LAYER_RULES,
            *norm_rules("encoder.layer.{i}.attention.LayerNorm", f"{LAYERS}/attention_norm"),
            *norm_rules("encoder.layer.{i}.intermediate.LayerNorm", f"{LAYERS}/feed_forward_norm"),
            *norm_rules("LayerNorm", "norm"),
        ),
        head_rules=(
            *HEAD_RULES,
            *norm_rules("encoder.layer.{i}.crossattention.LayerNorm", f"{LAYERS}/cross_attention_norm"),
        ),
    )
    pre_norm = True
    counts_tokens = True


class RobertaPreLayerNormForMaskedLM(heads.EncoderForMaskedLM):
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForCausalLM(heads.EncoderForCausalLM):
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForSequenceClassification(heads.EncoderForSequenceClassification):
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForMultipleChoice(heads.EncoderForMultipleChoice):
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForTokenClassification(heads.EncoderForTokenClassification):
    body = RobertaPreLayerNormModel


class RobertaPreLayerNormForQuestionAnswering(heads.EncoderForQuestionAnswering):
    body = RobertaPreLayerNormModel
