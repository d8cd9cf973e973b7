"""Configuration of RoBERTa-PreLayerNorm.

Reference: transformers/models/roberta_prelayernorm/configuration_roberta_prelayernorm.py.
"""

from typing import ClassVar

from jaxmodels.architectures.bert_like import BertLikeConfig
from jaxmodels.config.fields import DropoutRate, NumEmbeddings, TokenId


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
