"""T5's facts (reference: transformers/models/t5/configuration_t5.py)."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from jaxmodels.architectures.checks import check_inside_vocabulary
from jaxmodels.config import Config
from jaxmodels.config.fields import Count, Heads, Layers, Rate, Rows, Share, Spread, TokenId, Width
from jaxmodels.layers.feed_forward import ACTIVATIONS

NO_LIMIT = 2**31 - 1


class T5Config(Config):
    """Configuration of T5; names and defaults are Hugging Face's, the defaults are T5-small's.

    num_decoder_layers None stands for num_layers, and reads as that number. feed_forward_proj is the name of an
    activation, or "gated-" and such a name; "gated-gelu" means gelu_new. `pruned_heads` is refused, as are
    `tie_encoder_decoder` and `chunk_size_feed_forward`.

    scale_decoder_outputs: states are multiplied by d_model^-0.5 before the head. None stands for tie_word_embeddings,
      as in release 4 of the reference; release 5 has both facts apart.
    """

    model_type: ClassVar[str] = "t5"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }
    no_effect: ClassVar[Mapping[str, str]] = {
        "classifier_dropout": "of heads that are not here",
        "dense_act_fn": "follows from feed_forward_proj, which it must not contradict",
        "is_gated_act": "follows from feed_forward_proj, which it must not contradict",
        "n_positions": "a note of the length in training; distances have no limit",
    }

    vocab_size: Rows = 32128
    d_model: Width = 512
    d_kv: Width = 64
    d_ff: Width = 2048
    num_layers: Layers = 6
    num_decoder_layers: Layers | None = None
    num_heads: Heads = 8
    relative_attention_num_buckets: Count = 32
    relative_attention_max_distance: Count = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Share = 1e-6
    initializer_factor: Spread = 1.0
    feed_forward_proj: str = "relu"
    scale_decoder_outputs: bool | None = None
    is_encoder_decoder: bool = True
    pad_token_id: TokenId | None = 0
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 1

    @classmethod
    def derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("num_decoder_layers") is None:
            values["num_decoder_layers"] = values.get("num_layers", cls.num_layers)
        return values

    def widths(self) -> Iterable[int]:
        return [*super().widths(), self.num_heads * self.d_kv]

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
        """`scale_decoder_outputs`, or what stands for it."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    @property
    def is_gated_act(self) -> bool:
        """The feed-forward layers have a gate."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def dense_act_fn(self) -> str:
        """Name of the activation in the feed-forward layers."""
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")

    def validate(self):
        self._check_activation()
        self._check_unsupported()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or distance <= buckets // 2:
            raise ValueError(
                "T5Config: relative_attention_num_buckets is at least 4 and relative_attention_max_distance more than "
                f"half of it, got {buckets} and {distance}"
            )
        check_inside_vocabulary(self, "pad_token_id", "decoder_start_token_id")

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.scale_decoder_outputs is None:  # null would be read as false
            del values["scale_decoder_outputs"]
        return values

    def _check_activation(self):
        form = self.feed_forward_proj
        if self.dense_act_fn not in ACTIVATIONS:
            raise ValueError(
                f"T5Config: feed_forward_proj is an activation or 'gated-' and one, got {form!r}: there is no "
                f"activation {self.dense_act_fn!r}; there are {', '.join(sorted(ACTIVATIONS))}"
            )
        for key in ("dense_act_fn", "is_gated_act"):
            given, means = self.extra.get(key), getattr(self, key)
            if given is not None and given != means:
                raise ValueError(
                    f"T5Config: {key}={given!r} contradicts feed_forward_proj={form!r}, which means {means!r}; "
                    f"change both, or leave {key} out"
                )

    def _check_unsupported(self):
        if self.pruned_heads:
            raise ValueError(f"T5Config: pruned_heads={dict(self.pruned_heads)}, but T5's heads are not pruned here")
        if not self.is_encoder_decoder or self.is_decoder:
            raise ValueError("T5Config: T5 has an encoder and a decoder; is_encoder_decoder=True, is_decoder=False")
        if self.extra.get("tie_encoder_decoder"):
            raise ValueError("T5Config: tie_encoder_decoder=True is not supported, the stacks have their own weights")
        if self.chunk_size_feed_forward:
            raise ValueError("T5Config: T5 has no chunks in its feed-forward layers; chunk_size_feed_forward=0")
