"""GPT-Neo (Black et al., 2021, doi:10.5281/zenodo.5297715; reference: transformers/models/gpt_neo).

GPT-2 with unscaled scores, and layers of which some see a window of the last tokens only.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, cast

from jaxmodels.architectures import decoder, heads
from jaxmodels.architectures.checks import check_activation, check_heads
from jaxmodels.architectures.rules import (
    DECODER_HEAD_RULES,
    dense_rules,
    norm_rules,
    out_projection_rules,
    projection_rules,
)
from jaxmodels.arrays import TokenIds
from jaxmodels.config import Config, fields
from jaxmodels.convert import Rule, Table
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.feed_forward import FeedForward
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.layers.linear import layer_norm, scaled_normal
from jaxmodels.layers.stack import Layer

_SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")


class GPTNeoConfig(Config):
    """Configuration of GPT-Neo, with Hugging Face's names; the defaults are those of GPT-Neo 1.3B.

    attention_types: groups [kinds, times] such as [["global", "local"], 12]: the kinds of layers, repeated.
    """

    model_type: ClassVar[str] = "gpt_neo"
    aliases: ClassVar[Mapping[str, str]] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    no_effect: ClassVar[Mapping[str, str]] = {
        "attention_layers": "it follows from attention_types; in a file it replaces them",
        **{f"summary_{name}": "an option of GPT-2's summary, which GPT-Neo does not have" for name in _SUMMARY},
    }

    vocab_size: fields.NumEmbeddings = 50257
    max_position_embeddings: fields.NumEmbeddings = 2048
    hidden_size: fields.HiddenSize = 2048
    num_layers: fields.NumLayers = 24
    attention_types: tuple[tuple[tuple[Literal["global", "local"], ...] | fields.NumLayers, ...], ...] = (
        (("global", "local"), 12),
    )
    num_heads: fields.NumHeads = 16
    intermediate_size: fields.HiddenSize | None = None
    window_size: fields.PositiveInt = 256
    activation_function: str = "gelu_new"
    resid_dropout: fields.DropoutRate = 0.0
    embed_dropout: fields.DropoutRate = 0.0
    attention_dropout: fields.DropoutRate = 0.0
    classifier_dropout: fields.DropoutRate = 0.1
    layer_norm_epsilon: fields.Epsilon = 1e-5
    initializer_range: fields.InitializerScale = 0.02
    bos_token_id: fields.TokenId | None = 50256
    eos_token_id: fields.TokenId | tuple[fields.TokenId, ...] | None = 50256

    @classmethod
    def normalize(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The `attention_layers` of a file take precedence, as in the reference (docs/parity.md, GN3)."""
        values = super().normalize(values)
        layers = values.pop("attention_layers", None)
        return values if layers is None else {**values, "attention_types": [[layers, 1]]}

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def head_dropout(self) -> float:
        """Rate before the classifier of tokens."""
        return self.classifier_dropout

    @property
    def cache_sizes(self) -> dict[str, int]:
        return {"layers": self.num_layers, "heads": self.num_heads, "head_dim": self.head_dim}

    @property
    def attention_layers(self) -> tuple[str, ...]:
        """The kind of every layer, "global" or "local"."""
        return tuple(kind for kinds, times in cast(Any, self.attention_types) for kind in kinds * times)

    def validate(self) -> None:
        check_heads(self)
        check_activation(self, "activation_function", self.activation_function)
        if any([type(part) for part in group] != [tuple, int] for group in self.attention_types):
            raise ValueError("GPTNeoConfig: attention_types is a list of groups [[kind, ...], times]")
        count = sum(len(kinds) * times for kinds, times in cast(Any, self.attention_types))
        if count != self.num_layers:
            raise ValueError(f"GPTNeoConfig: attention_types describe {count} layers, but num_layers={self.num_layers}")
        if self.add_cross_attention or self.pruned_heads:
            raise ValueError("GPTNeoConfig: GPT-Neo has no cross attention and no pruned heads")


_PATH, _ATTENTION = "h/layers", "h.{i}.attn.attention"
_QKV = tuple(f"{_ATTENTION}.{name}_proj" for name in "qkv")
TABLE = Table(
    base="transformer",
    rules=(
        Rule("wte.weight", "wte/embedding"),
        Rule("wpe.weight", "wpe/embedding"),
        *norm_rules("ln_f", "ln_f"),
        *norm_rules("h.{i}.ln_1", f"{_PATH}/attention_norm"),
        *norm_rules("h.{i}.ln_2", f"{_PATH}/feed_forward_norm"),
        *projection_rules(_QKV, f"{_PATH}/attention/qkv"),
        *out_projection_rules(f"{_ATTENTION}.out_proj", f"{_PATH}/attention/out"),
        *dense_rules("h.{i}.mlp.c_fc", f"{_PATH}/feed_forward/up"),
        *dense_rules("h.{i}.mlp.c_proj", f"{_PATH}/feed_forward/down"),
    ),
    heads=DECODER_HEAD_RULES,
    ignored={r"h\.\d+\.attn\.attention\.(bias|masked_bias)": "the causal mask, a buffer of the torch model"},
    tied={"lm_head.weight": "wte.weight"},
)


class GPTNeoModel(decoder.DecoderModel):
    """The transformer without a head. See `DecoderModel` for the arguments of a call."""

    config_class = GPTNeoConfig
    table = TABLE

    config: GPTNeoConfig

    @property
    def embedding_dropout(self) -> float:
        return self.config.embed_dropout

    def attention_inputs(self, positions: TokenIds) -> AttentionInputs:
        return AttentionInputs(scale=1.0)  # docs/parity.md, GN1

    def windows(self) -> tuple[int | None, ...]:
        return tuple(self.config.window_size if kind == "local" else None for kind in self.config.attention_layers)

    def layer(self) -> Layer:
        c, dtypes = self.config, self.options.dtypes
        width, init = c.intermediate_size or 4 * c.hidden_size, scaled_normal(c.initializer_range)
        common: dict[str, Any] = {"kernel_init": init, "out_init": init, **dtypes}
        options: dict[str, Any] = {"use_bias": (False, False, False, True), "dropout": c.attention_dropout, **common}
        return Layer(
            attention=partial(Attention, c.num_heads, c.head_dim, implementation=self.attention, **options),
            feed_forward=partial(FeedForward, width, c.activation_function, **common),
            norm=partial(layer_norm, c.layer_norm_epsilon, **dtypes),
            dropout=c.resid_dropout,
            parent=None,
        )


class GPTNeoForCausalLM(heads.ForCausalLM):
    body = GPTNeoModel
    auto_classes = ("AutoModelForCausalLM", "AutoModelWithLMHead")


class GPTNeoForSequenceClassification(decoder.DecoderForSequenceClassification):
    body = GPTNeoModel


class GPTNeoForTokenClassification(heads.ForTokenClassification):
    body = GPTNeoModel


class GPTNeoForQuestionAnswering(heads.ForQuestionAnswering):
    body = GPTNeoModel
