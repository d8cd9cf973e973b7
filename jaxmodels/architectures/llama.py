"""Llama (Touvron et al., 2023, arXiv:2302.13971 and arXiv:2307.09288; reference: transformers/models/llama).

Rotary positions, groups of queries that share keys and values, RMSNorm, a gated feed-forward layer and no biases.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from jaxmodels.architectures import decoder, heads
from jaxmodels.architectures.checks import check_activation
from jaxmodels.architectures.rules import dense_rules, out_projection_rules, projection_rules
from jaxmodels.arrays import TokenIds
from jaxmodels.config import NO_LIMIT, Config, fields
from jaxmodels.convert import Rule, Table
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.feed_forward import GatedFeedForward
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.layers.linear import rms_norm, scaled_normal
from jaxmodels.layers.rotary import RotaryEmbedding
from jaxmodels.layers.stack import Layer


class LlamaConfig(Config):
    """Configuration of Llama, with Hugging Face's names; the defaults are those of Llama 7B.

    num_key_value_heads: default num_attention_heads. head_dim: default hidden_size / num_attention_heads.
    rope_scaling: a mapping with "rope_type" and the parameters of that type, see `layers/rotary.py`.
    """

    model_type: ClassVar[str] = "llama"
    no_effect: ClassVar[Mapping[str, str]] = {
        "pretraining_tp": "it only changes the order of the reference's additions",
        "rope_parameters": "of a file it is read as rope_theta and rope_scaling",
    }

    vocab_size: fields.NumEmbeddings = 32000
    max_position_embeddings: fields.NumEmbeddings = 2048
    hidden_size: fields.HiddenSize = 4096
    intermediate_size: fields.HiddenSize = 11008
    num_hidden_layers: fields.NumLayers = 32
    num_attention_heads: fields.NumHeads = 32
    num_key_value_heads: fields.NumHeads | None = None
    head_dim: fields.HiddenSize | None = None
    hidden_act: str = "silu"
    initializer_range: fields.InitializerScale = 0.02
    rms_norm_eps: fields.Epsilon = 1e-6
    rope_theta: fields.RopeTheta = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: fields.DropoutRate = 0.0
    mlp_bias: bool = False
    classifier_dropout: fields.DropoutRate = 0.1
    tie_word_embeddings: bool = False
    bos_token_id: fields.TokenId | None = 1
    eos_token_id: fields.TokenId | tuple[fields.TokenId, ...] | None = 2

    @classmethod
    def normalize(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Release 5 of the reference writes theta and scaling as one mapping."""
        values = super().normalize(values)
        if isinstance(rope := values.get("rope_parameters"), Mapping):
            rope = dict(rope)
            values = {"rope_theta": rope.pop("rope_theta", cls.rope_theta), **values, "rope_scaling": rope}
            del values["rope_parameters"]
        return values

    @classmethod
    def derive_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Heads of keys and values, and the head width, as in the reference."""
        count = values.get("num_attention_heads", cls.num_attention_heads)
        derived = {"num_key_value_heads": count, "head_dim": values.get("hidden_size", cls.hidden_size) // count}
        return values | {name: value for name, value in derived.items() if values.get(name) is None}

    def hidden_sizes(self) -> Iterable[int]:
        return [*super().hidden_sizes(), self.num_attention_heads * self.cache_sizes["head_dim"]]

    @property
    def head_dropout(self) -> float:
        """Rate before the classifier of tokens."""
        return self.classifier_dropout

    @property
    def max_tokens(self) -> int:
        """Rotary positions have no table; max_position_embeddings is not enforced (docs/parity.md, LL3)."""
        return NO_LIMIT

    @property
    def cache_sizes(self) -> dict[str, int]:
        assert self.num_key_value_heads is not None and self.head_dim is not None  # set by derive_values
        return {"layers": self.num_hidden_layers, "heads": self.num_key_value_heads, "head_dim": self.head_dim}

    @property
    def rotary(self) -> RotaryEmbedding:
        width, scaling = self.cache_sizes["head_dim"], self.rope_scaling or {}
        return RotaryEmbedding(width, self.rope_theta, self.max_position_embeddings, scaling)

    def validate(self) -> None:
        check_activation(self, "hidden_act", self.hidden_act)
        if self.num_attention_heads % (kv_heads := self.cache_sizes["heads"]):
            raise ValueError(
                f"LlamaConfig: num_key_value_heads={kv_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.add_cross_attention or self.pruned_heads:
            raise ValueError("LlamaConfig: Llama has no cross attention and no pruned heads")
        self.rotary.validate()


_PATH, _ATTENTION, _MLP = "h/layers", "layers.{i}.self_attn", "layers.{i}.mlp"
_UP = (f"{_MLP}.gate_proj", f"{_MLP}.up_proj")
TABLE = Table(
    base="model",
    rules=(
        Rule("embed_tokens.weight", "wte/embedding"),
        Rule("norm.weight", "ln_f/scale"),
        Rule("layers.{i}.input_layernorm.weight", f"{_PATH}/attention_norm/scale"),
        Rule("layers.{i}.post_attention_layernorm.weight", f"{_PATH}/feed_forward_norm/scale"),
        *projection_rules((f"{_ATTENTION}.q_proj",), f"{_PATH}/attention/q"),
        *projection_rules((f"{_ATTENTION}.k_proj", f"{_ATTENTION}.v_proj"), f"{_PATH}/attention/kv"),
        *out_projection_rules(f"{_ATTENTION}.o_proj", f"{_PATH}/attention/out"),
        Rule(tuple(f"{name}.weight" for name in _UP), f"{_PATH}/feed_forward/gate_up/kernel", "n f d -> d n f"),
        Rule(tuple(f"{name}.bias" for name in _UP), f"{_PATH}/feed_forward/gate_up/bias", "n f -> n f"),
        *dense_rules(f"{_MLP}.down_proj", f"{_PATH}/feed_forward/down"),
    ),
    heads=(
        Rule("lm_head.weight", "lm_head/kernel", "o i -> i o"),
        Rule("score.weight", "score/kernel", "o i -> i o"),
        *dense_rules("qa_outputs", "qa_outputs"),
    ),
    ignored={r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "the frequencies of the positions, a buffer"},
    tied={"lm_head.weight": "embed_tokens.weight"},
)


class LlamaModel(decoder.DecoderModel):
    """The transformer without a head. See `DecoderModel` for the arguments of a call."""

    config_class = LlamaConfig
    table = TABLE
    learned_positions = False
    token_types = False

    config: LlamaConfig

    @property
    def padding_embedding(self) -> int | None:
        return self.config.pad_token_id

    def attention_inputs(self, positions: TokenIds) -> AttentionInputs:
        return AttentionInputs(rotation=self.config.rotary(positions))

    def layer(self) -> Layer:
        c, dtypes, sizes = self.config, self.options.dtypes, self.config.cache_sizes
        init = scaled_normal(c.initializer_range)
        common: dict[str, Any] = {"kernel_init": init, "out_init": init, **dtypes}
        options: dict[str, Any] = {"kv_heads": sizes["heads"], "use_bias": c.attention_bias, **common}
        options |= {"dropout": c.attention_dropout, "implementation": self.attention}
        return Layer(
            attention=partial(Attention, c.num_attention_heads, sizes["head_dim"], **options),
            feed_forward=partial(GatedFeedForward, c.intermediate_size, c.hidden_act, use_bias=c.mlp_bias, **common),
            norm=partial(rms_norm, c.rms_norm_eps, **dtypes),
            parent=None,
        )


class LlamaForCausalLM(heads.ForCausalLM):
    body = LlamaModel


class LlamaForSequenceClassification(decoder.DecoderForSequenceClassification):
    body = LlamaModel


class LlamaForTokenClassification(heads.ForTokenClassification):
    body = LlamaModel
    table = dataclasses.replace(TABLE, heads=dense_rules("score", "classifier"))  # the reference's name


class LlamaForQuestionAnswering(heads.ForQuestionAnswering):
    body = LlamaModel
    table = dataclasses.replace(TABLE, base="transformer", other_bases=("model",))  # the reference's name
