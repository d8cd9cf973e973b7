"""RoBERTa-PreLayerNorm's weight table."""

from jaxmodels.architectures.bert_like import (
    BUFFERS,
    CROSS,
    EMBEDDING_RULES,
    LAYER_RULES,
    LAYERS,
    attention_rules,
)
from jaxmodels.architectures.rules import dense_rules, norm_rules
from jaxmodels.convert import Rule, Table

TABLE = Table(
    base="roberta_prelayernorm",
    rules=(
        *EMBEDDING_RULES,
        *LAYER_RULES,
        *norm_rules("encoder.layer.{i}.attention.LayerNorm", f"{LAYERS}/attention_norm"),
        *norm_rules("encoder.layer.{i}.intermediate.LayerNorm", f"{LAYERS}/feed_forward_norm"),
        *norm_rules("LayerNorm", "norm"),
    ),
    heads=(
        *dense_rules("pooler.dense", "pooler"),
        *norm_rules("encoder.layer.{i}.crossattention.LayerNorm", f"{LAYERS}/cross_attention_norm"),
        # Pruning leaves the cross attention whole, so its heads are not the axis `h`.
        *attention_rules("encoder.layer.{i}.crossattention", f"{LAYERS}/cross_attention", "g", fused=CROSS),
        *dense_rules("lm_head.dense", "lm_head/dense"),
        *norm_rules("lm_head.layer_norm", "lm_head/norm"),
        Rule("lm_head.bias", "lm_head/bias"),
        Rule("lm_head.decoder.weight", "lm_head/decoder/kernel", "v d -> d v"),
        *dense_rules("classifier.dense", "classifier/dense"),
        *dense_rules("classifier.out_proj", "classifier/out_proj"),
        *dense_rules("classifier", "classifier"),
        *dense_rules("qa_outputs", "qa_outputs"),
    ),
    ignored=BUFFERS,
    tied={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
    # One parameter; files may hold it under either name.
    repeats={"lm_head.decoder.bias": "lm_head.bias"},
)
