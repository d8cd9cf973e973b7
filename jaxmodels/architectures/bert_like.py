"""What BERT (Devlin et al., 2018, arXiv:1810.04805) and RoBERTa have in common: facts, embeddings, layers.

Reference: transformers/models/bert/modeling_bert.py, which the others were copied from.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.architectures.checks import check_activation, check_heads, check_inside_vocabulary
from jaxmodels.architectures.rules import dense_rules, norm_rules
from jaxmodels.config import Config
from jaxmodels.config.fields import (
    DropoutRate,
    Epsilon,
    HiddenSize,
    InitializerScale,
    NumEmbeddings,
    NumHeads,
    NumLayers,
)
from jaxmodels.convert import Rule
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.layer import FeedForward, Layer
from jaxmodels.layers.linear import Embedding, Linear, dropout, layer_norm, scaled_normal
from jaxmodels.layers.relative import KINDS, RelativeKeys


class BertLikeConfig(Config):
    """Names that the family shares; the defaults are BERT-base's."""

    vocab_size: NumEmbeddings = 30522
    hidden_size: HiddenSize = 768
    num_hidden_layers: NumLayers = 12
    num_attention_heads: NumHeads = 12
    intermediate_size: HiddenSize = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: DropoutRate = 0.1
    attention_probs_dropout_prob: DropoutRate = 0.1
    max_position_embeddings: NumEmbeddings = 512
    type_vocab_size: NumEmbeddings = 2
    initializer_range: InitializerScale = 0.02
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: Literal["absolute", "relative_key", "relative_key_query"] = "absolute"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def is_relative(self) -> bool:
        """Positions enter as distances in the attention, not as embeddings."""
        return self.position_embedding_type in KINDS

    def validate(self):
        check_heads(self)
        check_activation(self, "hidden_act", self.hidden_act)
        check_inside_vocabulary(self, "pad_token_id")


class BertEmbeddings(nn.Module):
    """Word + type + position embeddings -> norm -> dropout.

    Attributes:
      unused_position: row of the position table that padding has (RoBERTa), None: there is none (BERT).
    """

    config: BertLikeConfig
    unused_position: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        c, init = self.config, scaled_normal(self.config.initializer_range)
        table = partial(
            Embedding, features=c.hidden_size, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        self.word_embeddings = table(c.vocab_size, padding=c.pad_token_id)
        self.position_embeddings = table(c.max_position_embeddings, axis="length", padding=self.unused_position)
        self.token_type_embeddings = table(c.type_vocab_size, axis=None)
        self.norm = layer_norm(c.layer_norm_eps, self.dtype, self.param_dtype)

    def __call__(self, words: jax.Array, types: jax.Array, positions: jax.Array) -> jax.Array:
        """words [B,T,D]; types, positions int [B,T] or [1,T] -> [B,T,D]."""
        x = words.astype(self.dtype) + self.token_type_embeddings(types)
        where = self.position_embeddings(positions)
        if not self.config.is_relative:  # a model with distances has this table too, and never adds it
            x = x + where
        return dropout(self, self.norm(x), self.config.hidden_dropout_prob)


def bert_layer(config: BertLikeConfig, *, attention: str, dtype: Any, param_dtype: Any, pre_norm: bool) -> Layer:
    """One layer; `attention` names the implementation, `pre_norm` is what sets RoBERTa-PreLayerNorm apart."""
    c, init = config, scaled_normal(config.initializer_range)
    kinds: Mapping[str, Any] = {"kernel_init": init, "dtype": dtype, "param_dtype": param_dtype}
    attend = partial(
        Attention,
        c.num_attention_heads,
        c.head_dim,
        out_init=init,
        dropout=c.attention_probs_dropout_prob,
        implementation=attention,
        **kinds,
    )
    key_term = c.position_embedding_type == "relative_key_query"
    distances = partial(RelativeKeys, c.max_position_embeddings, c.head_dim, key_term, init, param_dtype)
    return Layer(
        attention=partial(attend, relative=distances if c.is_relative else None),
        cross_attention=partial(attend, cross=True) if c.add_cross_attention else None,
        feed_forward=partial(
            FeedForward, c.intermediate_size, c.hidden_act, out_init=init, chunk=c.chunk_size_feed_forward, **kinds
        ),
        norm=partial(layer_norm, c.layer_norm_eps, dtype, param_dtype),
        pre_norm=pre_norm,
        dropout=c.hidden_dropout_prob,
        parent=None,
    )


def linear(config: BertLikeConfig, features: int, dtype: Any, param_dtype: Any, axis: str | None = None) -> Linear:
    """A projection of hidden states in a head, initialised like the rest."""
    return Linear((features,), ("embed", axis), scaled_normal(config.initializer_range), True, dtype, param_dtype)


def attention_rules(torch: str, ours: str, heads: str, *, fused: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """The projections of one attention; `heads` names the axis of the heads, "h" where pruning removes some.

    fused: our kernel -> the torch layers that it holds side by side.
    """
    rules = []
    for name, parts in fused.items():
        weights = tuple(f"{torch}.self.{part}.weight" for part in parts)
        biases = tuple(f"{torch}.self.{part}.bias" for part in parts)
        if len(parts) == 1:
            rules += [
                Rule(weights[0], f"{ours}/{name}/kernel", f"({heads} k) d -> d {heads} k"),
                Rule(biases[0], f"{ours}/{name}/bias", f"({heads} k) -> {heads} k"),
            ]
        else:
            rules += [
                Rule(weights, f"{ours}/{name}/kernel", f"n ({heads} k) d -> d n {heads} k"),
                Rule(biases, f"{ours}/{name}/bias", f"n ({heads} k) -> n {heads} k"),
            ]
    return (
        *rules,
        Rule(f"{torch}.output.dense.weight", f"{ours}/out/kernel", f"d ({heads} k) -> {heads} k d"),
        Rule(f"{torch}.output.dense.bias", f"{ours}/out/bias"),
    )


SELF = {"qkv": ("query", "key", "value")}
CROSS = {"q": ("query",), "kv": ("key", "value")}
LAYERS = "encoder/layers"

EMBEDDING_RULES = (
    Rule("embeddings.word_embeddings.weight", "embeddings/word_embeddings/embedding"),
    Rule("embeddings.position_embeddings.weight", "embeddings/position_embeddings/embedding"),
    Rule("embeddings.token_type_embeddings.weight", "embeddings/token_type_embeddings/embedding"),
    *norm_rules("embeddings.LayerNorm", "embeddings/norm"),
)
# All but the norms, which stand in other places before and after a part.
LAYER_RULES = (
    *attention_rules("encoder.layer.{i}.attention", f"{LAYERS}/attention", "h", fused=SELF),
    Rule("encoder.layer.{i}.attention.self.distance_embedding.weight", f"{LAYERS}/attention/relative/embedding"),
    *dense_rules("encoder.layer.{i}.intermediate.dense", f"{LAYERS}/feed_forward/up"),
    *dense_rules("encoder.layer.{i}.output.dense", f"{LAYERS}/feed_forward/down"),
)
# Names of files from the time of TensorFlow's BERT, and what torch models hold beside their weights.
OLD_NAMES = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}
BUFFERS = {
    r"embeddings\.(position_ids|token_type_ids)": "counted or zero, a buffer of the torch model",
}
