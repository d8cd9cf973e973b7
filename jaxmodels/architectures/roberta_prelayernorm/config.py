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
