"""Configuration of BART, and the fields shared with LED.

Reference: transformers/models/bart/configuration_bart.py.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxmodels.architectures.checks import check_activation, check_inside_vocabulary
from jaxmodels.config import Config
from jaxmodels.config.fields import (
    DropoutRate,
    HiddenSize,
    InitializerScale,
    NumEmbeddings,
    NumHeads,
    NumLabels,
    NumLayers,
    Probability,
    TokenId,
)


class BartLikeConfig(Config):
    """Fields shared by BART and LED, with Hugging Face's names; the defaults are those of BART-large."""

    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "initializer_range": "init_std",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    no_effect: ClassVar[Mapping[str, str]] = {
        "num_hidden_layers": "repeats the number of encoder layers; write encoder_layers and decoder_layers",
        "classif_dropout": "an older name of classifier_dropout that the reference does not read",
        "force_bos_token_to_be_generated": "an older name of forced_bos_token_id that files may use",
        **{
            name: "an option of fairseq; the reference does not read it"
            for name in (
                *("add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding"),
                *("extra_pos_embeddings", "static_position_embeddings"),
            )
        },
    }

    vocab_size: NumEmbeddings = 50265
    d_model: HiddenSize = 1024
    encoder_layers: NumLayers = 12
    encoder_ffn_dim: HiddenSize = 4096
    encoder_attention_heads: NumHeads = 16
    decoder_layers: NumLayers = 12
    decoder_ffn_dim: HiddenSize = 4096
    decoder_attention_heads: NumHeads = 16
    encoder_layerdrop: Probability = 0.0
    decoder_layerdrop: Probability = 0.0
    activation_function: str = "gelu"
    dropout: DropoutRate = 0.1
    attention_dropout: DropoutRate = 0.0
    activation_dropout: DropoutRate = 0.0
    classifier_dropout: DropoutRate = 0.0
    init_std: InitializerScale = 0.02
    is_encoder_decoder: bool = True
    bos_token_id: TokenId | None = 0
    pad_token_id: TokenId | None = 1
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2
    decoder_start_token_id: TokenId | None = 2

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers

    @property
    def cache_sizes(self) -> dict[str, int]:
        heads = self.decoder_attention_heads
        return {"layers": self.decoder_layers, "heads": heads, "head_dim": self.d_model // heads}

    @property
    def head_dropout(self) -> float:
        """Rate in classification heads."""
        return self.classifier_dropout

    @property
    def embedding_scale(self) -> float:
        """Factor applied to the word embeddings."""
        return 1.0

    def validate(self) -> None:
        name = type(self).__name__
        for key in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, key):
                raise ValueError(f"{name}: {key}={getattr(self, key)} does not divide d_model={self.d_model}")
        check_activation(self, "activation_function", self.activation_function)
        if self.pruned_heads:
            raise ValueError(f"{name}: pruned_heads={dict(self.pruned_heads)}, but its heads cannot be pruned")
        if not self.is_encoder_decoder or self.is_decoder:
            raise ValueError(f"{name}: an encoder-decoder needs is_encoder_decoder=True and is_decoder=False")
        if self.extra.get("tie_encoder_decoder"):
            raise ValueError(
                f"{name}: tie_encoder_decoder=True is not supported, encoder and decoder have separate weights"
            )
        if self.chunk_size_feed_forward:
            raise ValueError(f"{name}: chunked feed-forward is not supported; chunk_size_feed_forward must be 0")
        check_inside_vocabulary(self, "pad_token_id", "decoder_start_token_id")


class BartConfig(BartLikeConfig):
    """Configuration of BART; with Hugging Face's names; the defaults are those of BART-large."""

    model_type: ClassVar[str] = "bart"
    generation_defaults: ClassVar[Mapping[str, int]] = {"forced_eos_token_id": 2}

    max_position_embeddings: NumEmbeddings = 1024
    scale_embedding: bool = False
    num_labels: NumLabels | None = 3

    @classmethod
    def normalize(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        values = super().normalize(values)
        if values.get("force_bos_token_to_be_generated") and values.get("forced_bos_token_id") is None:
            values["forced_bos_token_id"] = values.get("bos_token_id", cls.bos_token_id)
        return values

    @property
    def embedding_scale(self) -> float:
        return self.d_model**0.5 if self.scale_embedding else 1.0
