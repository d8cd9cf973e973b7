"""Configuration of T5 (reference: transformers/models/t5/configuration_t5.py)."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from jaxmodels.architectures.checks import check_inside_vocabulary
from jaxmodels.config import NO_LIMIT, Config
from jaxmodels.config.fields import (
    DropoutRate,
    Epsilon,
    HiddenSize,
    InitializerScale,
    NumEmbeddings,
    NumHeads,
    NumLayers,
    PositiveInt,
    TokenId,
)
from jaxmodels.layers.feed_forward import ACTIVATIONS


class T5Config(Config):
    """Configuration of T5, with Hugging Face's names; the defaults are those of T5-small.

    `pruned_heads`, `tie_encoder_decoder` and `chunk_size_feed_forward` are not supported.

    Attributes:
      num_decoder_layers: None is replaced by num_layers.
      feed_forward_proj: name of an activation, or "gated-" followed by one; "gated-gelu" means gelu_new.
      scale_decoder_outputs: multiply the decoder's hidden states by d_model^-0.5 before the head. None follows
        tie_word_embeddings, as in release 4 of the reference; release 5 has two separate keys.
    """

    model_type: ClassVar[str] = "t5"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }
    no_effect: ClassVar[Mapping[str, str]] = {
        "classifier_dropout": "of heads that are not implemented",
        "dense_act_fn": "derived from feed_forward_proj, which it must match",
        "is_gated_act": "derived from feed_forward_proj, which it must match",
        "n_positions": "the length used in training; relative positions have no limit",
    }

    vocab_size: NumEmbeddings = 32128
    d_model: HiddenSize = 512
    d_kv: HiddenSize = 64
    d_ff: HiddenSize = 2048
    num_layers: NumLayers = 6
    num_decoder_layers: NumLayers | None = None
    num_heads: NumHeads = 8
    relative_attention_num_buckets: PositiveInt = 32
    relative_attention_max_distance: PositiveInt = 128
    dropout_rate: DropoutRate = 0.1
    layer_norm_epsilon: Epsilon = 1e-6
    initializer_factor: InitializerScale = 1.0
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool | None = None
    is_encoder_decoder: bool = True
    pad_token_id: TokenId | None = 0
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 1

    @classmethod
    def derive_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("num_decoder_layers") is None:
            values["num_decoder_layers"] = values.get("num_layers", cls.num_layers)
        return values

    def hidden_sizes(self) -> Iterable[int]:
        return [*super().hidden_sizes(), self.num_heads * self.d_kv]

    @property
    def max_tokens(self) -> int:
        """T5 has no table of positions: a sequence may be as long as memory allows."""
        return NO_LIMIT

    @property
    def cache_sizes(self) -> dict[str, int]:
        assert self.num_decoder_layers is not None  # derive saw to it
        return {"layers": self.num_decoder_layers, "heads": self.num_heads, "head_dim": self.d_kv}

    @property
    def scales_outputs(self) -> bool:
        """`scale_decoder_outputs`, or its default."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    @property
    def is_gated_act(self) -> bool:
        """Whether the feed-forward layers are gated."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def dense_act_fn(self) -> str:
        """Name of the activation of the feed-forward layers."""
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")

    def validate(self) -> None:
        self._check_activation()
        self._check_unsupported()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or distance <= buckets // 2:
            raise ValueError(
                "T5Config: relative_attention_num_buckets must be at least 4 and relative_attention_max_distance more "
                f"than half of it, got {buckets} and {distance}"
            )
        check_inside_vocabulary(self, "pad_token_id", "decoder_start_token_id")

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.scale_decoder_outputs is None:  # the reference reads null as false
            del values["scale_decoder_outputs"]
        return values

    def _check_activation(self) -> None:
        form = self.feed_forward_proj
        if self.dense_act_fn not in ACTIVATIONS:
            raise ValueError(
                f"T5Config: feed_forward_proj must be an activation, or 'gated-' followed by one, got {form!r}; the "
                f"activations are {', '.join(sorted(ACTIVATIONS))}"
            )
        for key in ("dense_act_fn", "is_gated_act"):
            value, implied = self.extra.get(key), getattr(self, key)
            if value is not None and value != implied:
                raise ValueError(
                    f"T5Config: {key}={value!r} contradicts feed_forward_proj={form!r}, which implies {implied!r}; "
                    f"change both, or leave {key} out"
                )

    def _check_unsupported(self) -> None:
        if self.pruned_heads:
            raise ValueError(
                f"T5Config: pruned_heads={dict(self.pruned_heads)}, but pruning heads of T5 is not supported"
            )
        if not self.is_encoder_decoder or self.is_decoder:
            raise ValueError("T5Config: an encoder-decoder needs is_encoder_decoder=True and is_decoder=False")
        if self.extra.get("tie_encoder_decoder"):
            raise ValueError(
                "T5Config: tie_encoder_decoder=True is not supported, encoder and decoder have separate weights"
            )
        if self.chunk_size_feed_forward:
            raise ValueError("T5Config: chunked feed-forward is not supported; chunk_size_feed_forward must be 0")
