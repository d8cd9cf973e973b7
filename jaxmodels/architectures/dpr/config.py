"""DPR's facts (reference: transformers/models/dpr/configuration_dpr.py)."""

from collections.abc import Mapping
from typing import ClassVar

from jaxmodels.architectures.bert_like import BertLikeConfig
from jaxmodels.config.fields import TokenId, WidthOrZero


class DPRConfig(BertLikeConfig):
    """Configuration of DPR's encoders and reader; names and defaults are Hugging Face's, the defaults are BERT-base's.

    A BERT checkpoint's config.json is read too: DPR training starts from one.
    """

    model_type: ClassVar[str] = "dpr"
    relatives: ClassVar[tuple[str, ...]] = ("bert",)
    no_effect: ClassVar[Mapping[str, str]] = {
        "classifier_dropout": "of BERT's classification heads, which DPR has not",
        "directionality": "a note in the config of some BERT checkpoints",
        **{
            f"pooler_{name}": "of BERT's pooler, which DPR has not"
            for name in ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")
        },
    }

    pad_token_id: TokenId | None = 0
    projection_dim: WidthOrZero = 0

    def validate(self):
        super().validate()
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                raise ValueError(f"DPRConfig: {name}=True, but DPR's models are encoders")
