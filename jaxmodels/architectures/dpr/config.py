"""Configuration of DPR (reference: transformers/models/dpr/configuration_dpr.py)."""

from collections.abc import Mapping
from typing import ClassVar

from jaxmodels.architectures.bert_like import BertLikeConfig
from jaxmodels.config.fields import HiddenSizeOrZero, TokenId


class DPRConfig(BertLikeConfig):
    """Configuration of DPR's encoders and reader, with Hugging Face's names; the defaults are those of BERT-base.

    Also reads the config.json of a BERT checkpoint, because DPR is trained from BERT.
    """

    model_type: ClassVar[str] = "dpr"
    compatible_model_types: ClassVar[tuple[str, ...]] = ("bert",)
    no_effect: ClassVar[Mapping[str, str]] = {
        **BertLikeConfig.no_effect,
        "classifier_dropout": "of BERT's classification heads, which DPR does not have",
    }

    pad_token_id: TokenId | None = 0
    projection_dim: HiddenSizeOrZero = 0

    def validate(self) -> None:
        super().validate()
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                raise ValueError(f"DPRConfig: {name}=True, but DPR's models are encoders")
