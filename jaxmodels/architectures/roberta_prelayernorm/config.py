"""RoBERTa-PreLayerNorm's facts (reference: .../roberta_prelayernorm/configuration_roberta_prelayernorm.py)."""

from typing import ClassVar

from jaxmodels.architectures.bert_like import BertLikeConfig
from jaxmodels.config.fields import Rate, Rows, TokenId


class RobertaPreLayerNormConfig(BertLikeConfig):
    """Configuration of RoBERTa-PreLayerNorm; names and defaults are Hugging Face's."""

    model_type: ClassVar[str] = "roberta-prelayernorm"

    vocab_size: Rows = 50265
    pad_token_id: TokenId | None = 1
    bos_token_id: TokenId | None = 0
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    classifier_dropout: Rate | None = None

    @property
    def head_dropout(self) -> float:
        """Rate in front of the classifiers."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def validate(self):
        super().validate()
        if self.pad_token_id is None:
            raise ValueError("RobertaPreLayerNormConfig: pad_token_id is needed, positions are counted from it")
        if self.pad_token_id + 1 >= self.max_position_embeddings:
            raise ValueError(
                f"RobertaPreLayerNormConfig: positions are counted from pad_token_id + 1 = {self.pad_token_id + 1}, "
                f"which leaves none of max_position_embeddings={self.max_position_embeddings}"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("RobertaPreLayerNormConfig: add_cross_attention=True needs is_decoder=True")
