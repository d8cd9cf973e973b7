"""Config fields and weight rules that BERT (Devlin et al., 2018, arXiv:1810.04805) and its relatives share.

Reference: transformers/models/bert/configuration_bert.py and modeling_bert.py, which the others were copied from.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

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
from jaxmodels.layers.attention import RELATIVE_KEY, RELATIVE_KEY_QUERY


class BertLikeConfig(Config):
    """Fields that the families share; the defaults are BERT-base's."""

    no_effect: ClassVar[Mapping[str, str]] = {
        "directionality": "a remark in some BERT checkpoints",
        **{
            f"pooler_{name}": "a remark in some BERT checkpoints"
            for name in ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")
        },
    }

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
        """Positions enter the attention as distances, not the embeddings."""
        return self.position_embedding_type in (RELATIVE_KEY, RELATIVE_KEY_QUERY)

    def validate(self):
        check_heads(self)
        check_activation(self, "hidden_act", self.hidden_act)
        check_inside_vocabulary(self, "pad_token_id")


class BertHeadsConfig(BertLikeConfig):
    """Fields of the families that have heads, and are decoders too, with `is_decoder`: all but DPR."""

    classifier_dropout: DropoutRate | None = None

    @property
    def head_dropout(self) -> float:
        """Rate before classifiers."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def head_act(self) -> str:
        """Activation of the language head."""
        return self.hidden_act

    @property
    def cache_sizes(self) -> dict[str, int]:
        if not self.is_decoder:
            raise ValueError("this model has a cache as a decoder only: load it with is_decoder=True")
        return {"layers": self.num_hidden_layers, "heads": self.num_attention_heads, "head_dim": self.head_dim}

    def validate(self) -> None:
        super().validate()
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError(f"{type(self).__name__}: add_cross_attention=True needs is_decoder=True")


def attention_rules(torch: str, path: str, heads: str, *, fused: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """The projections of one attention; `heads` names the axis of the heads, "h" where pruning removes some.

    fused: our kernel -> the torch layers that it holds side by side.
    """
    rules = []
    for name, parts in fused.items():
        weights = tuple(f"{torch}.self.{part}.weight" for part in parts)
        biases = tuple(f"{torch}.self.{part}.bias" for part in parts)
        if len(parts) == 1:
            rules += [
                Rule(weights[0], f"{path}/{name}/kernel", f"({heads} k) d -> d {heads} k"),
                Rule(biases[0], f"{path}/{name}/bias", f"({heads} k) -> {heads} k"),
            ]
        else:
            rules += [
                Rule(weights, f"{path}/{name}/kernel", f"n ({heads} k) d -> d n {heads} k"),
                Rule(biases, f"{path}/{name}/bias", f"n ({heads} k) -> n {heads} k"),
            ]
    return (
        *rules,
        Rule(f"{torch}.output.dense.weight", f"{path}/out/kernel", f"d ({heads} k) -> {heads} k d"),
        Rule(f"{torch}.output.dense.bias", f"{path}/out/bias"),
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
# The transformer of BERT, RoBERTa and DPR, whose norms come after each residual.
POST_NORM_RULES = (
    *EMBEDDING_RULES,
    *LAYER_RULES,
    *norm_rules("encoder.layer.{i}.attention.output.LayerNorm", f"{LAYERS}/attention_norm"),
    *norm_rules("encoder.layer.{i}.output.LayerNorm", f"{LAYERS}/feed_forward_norm"),
)
# Parts that are often added to a checkpoint of an encoder.
HEAD_RULES = (
    *dense_rules("pooler.dense", "pooler"),
    # Pruning leaves the cross attention whole, so its heads are not the axis `h`.
    *attention_rules("encoder.layer.{i}.crossattention", f"{LAYERS}/cross_attention", "g", fused=CROSS),
    *dense_rules("classifier", "classifier"),
    *dense_rules("qa_outputs", "qa_outputs"),
)
POST_NORM_HEAD_RULES = (
    *HEAD_RULES,
    *norm_rules("encoder.layer.{i}.crossattention.output.LayerNorm", f"{LAYERS}/cross_attention_norm"),
)
# Names of files from the time of TensorFlow's BERT, and what torch models hold beside their weights.
OLD_NAMES = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}
BUFFERS = {
    r"embeddings\.(position_ids|token_type_ids)": "counted or zero, a buffer of the torch model",
}
