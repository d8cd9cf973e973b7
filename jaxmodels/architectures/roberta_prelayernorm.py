"""RoBERTa-PreLayerNorm: RoBERTa with pre-norm layers (reference: transformers/models/roberta_prelayernorm).

The checkpoints are those of Wettig et al., "Should You Mask 15% in Masked Language Modeling?", 2022 (arXiv:2202.08005).
"""

from typing import ClassVar

from jaxmodels.architectures import encoder_heads as heads
from jaxmodels.architectures.bert_like import (
    BUFFERS,
    CROSS,
    EMBEDDING_RULES,
    LAYER_RULES,
    LAYERS,
    BertLikeConfig,
    attention_rules,
)
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.rules import dense_rules, norm_rules
from jaxmodels.config.fields import DropoutRate, NumEmbeddings, TokenId
from jaxmodels.convert import Rule, Table


class RobertaPreLayerNormConfig(BertLikeConfig):
    """Configuration of RoBERTa-PreLayerNorm, with Hugging Face's names and defaults."""

    model_type: ClassVar[str] = "roberta-prelayernorm"

    vocab_size: NumEmbeddings = 50265
    pad_token_id: TokenId | None = 1
    bos_token_id: TokenId | None = 0
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    classifier_dropout: DropoutRate | None = None

    @property
    def head_dropout(self) -> float:
        """Dropout rate before the classifiers."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def max_tokens(self) -> int:
        """Positions are counted from pad_token_id + 1."""
        return self.max_position_embeddings - (0 if self.is_relative else self.position_range[0])

    @property
    def position_range(self) -> tuple[int, int]:
        assert self.pad_token_id is not None  # validate saw to it
        return self.pad_token_id + 1, self.pad_token_id

    @property
    def cache_sizes(self) -> dict[str, int]:
        if not self.is_decoder:
            raise ValueError("this model has a cache as a decoder only: load it with is_decoder=True")
        return {"layers": self.num_hidden_layers, "heads": self.num_attention_heads, "head_dim": self.head_dim}

    def validate(self) -> None:
        super().validate()
        if self.pad_token_id is None:
            raise ValueError("RobertaPreLayerNormConfig: pad_token_id must be set, position ids start after it")
        if self.pad_token_id + 1 >= self.max_position_embeddings:
            raise ValueError(
                f"RobertaPreLayerNormConfig: position ids start at pad_token_id + 1 = {self.pad_token_id + 1}, which "
                f"must be less than max_position_embeddings={self.max_position_embeddings}"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("RobertaPreLayerNormConfig: add_cross_attention=True needs is_decoder=True")


TABLE = Table(
    base="roberta_prelayernorm",
    rules=(
        *EMBEDDING_RULES,
        *LAYER_RULES,
        *norm_rules("encoder.layer.{i}.attention.LayerNorm", f"{LAYERS}/attention_norm"),
        *norm_rules("encoder.layer.{i}.intermediate.LayerNorm", f"{LAYERS}/feed_forward_norm"),
        *norm_rules("LayerNorm", "norm"),
    ),
    heads=(
        *dense_rules("pooler.dense", "pooler"),
        *norm_rules("encoder.layer.{i}.crossattention.LayerNorm", f"{LAYERS}/cross_attention_norm"),
        # Pruning leaves the cross attention whole, so its heads are not the axis `h`.
        *attention_rules("encoder.layer.{i}.crossattention", f"{LAYERS}/cross_attention", "g", fused=CROSS),
        *dense_rules("lm_head.dense", "lm_head/dense"),
        *norm_rules("lm_head.layer_norm", "lm_head/norm"),
        Rule("lm_head.bias", "lm_head/bias"),
        Rule("lm_head.decoder.weight", "lm_head/decoder/kernel", "v d -> d v"),
        *dense_rules("classifier.dense", "classifier/dense"),
        *dense_rules("classifier.out_proj", "classifier/out_proj"),
        *dense_rules("classifier", "classifier"),
        *dense_rules("qa_outputs", "qa_outputs"),
    ),
    ignored=BUFFERS,
    tied={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
    # One parameter; files may hold it under either name.
    repeats={"lm_head.decoder.bias": "lm_head.bias"},
)


class RobertaPreLayerNormModel(EncoderModel):
    config_class = RobertaPreLayerNormConfig
    table = TABLE
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
