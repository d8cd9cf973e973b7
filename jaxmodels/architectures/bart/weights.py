"""BART's weight table; LED's decoder and feed-forward layers go by the same names."""

from jaxmodels.architectures.rules import dense_rules, norm_rules, out_projection_rules, projection_rules
from jaxmodels.convert import Rule, Table


def stack_rules(stack: str) -> tuple[Rule, ...]:
    """What both stacks of BART and LED have, but for the self attention."""
    torch, path = f"{stack}.layers.{{i}}", f"{stack}/stack/layers"
    return (
        Rule(f"{stack}.embed_positions.weight", f"{stack}/embeddings/table/embedding"),
        *norm_rules(f"{stack}.layernorm_embedding", f"{stack}/embeddings/norm"),
        *norm_rules(f"{torch}.self_attn_layer_norm", f"{path}/attention_norm"),
        *dense_rules(f"{torch}.fc1", f"{path}/feed_forward/up"),
        *dense_rules(f"{torch}.fc2", f"{path}/feed_forward/down"),
        *norm_rules(f"{torch}.final_layer_norm", f"{path}/feed_forward_norm"),
    )


def self_attention_rules(stack: str) -> tuple[Rule, ...]:
    torch, path = f"{stack}.layers.{{i}}.self_attn", f"{stack}/stack/layers/attention"
    return (
        *projection_rules(tuple(f"{torch}.{part}_proj" for part in "qkv"), f"{path}/qkv"),
        *out_projection_rules(f"{torch}.out_proj", f"{path}/out"),
    )


_CROSS = "decoder.layers.{i}.encoder_attn"
_PATH = "decoder/stack/layers/cross_attention"
DECODER_RULES = (
    *stack_rules("decoder"),
    *self_attention_rules("decoder"),
    *norm_rules(f"{_CROSS}_layer_norm", f"{_PATH}_norm"),
    *projection_rules((f"{_CROSS}.q_proj",), f"{_PATH}/q"),
    *projection_rules(tuple(f"{_CROSS}.{part}_proj" for part in "kv"), f"{_PATH}/kv"),
    *out_projection_rules(f"{_CROSS}.out_proj", f"{_PATH}/out"),
)
SHARED_RULE = Rule("shared.weight", "shared/embedding")
HEAD_RULES = (
    Rule("final_logits_bias", "final_logits_bias", "1 v -> v"),
    Rule("lm_head.weight", "lm_head/kernel", "v d -> d v"),
)
# Where both stacks read the one table, files may hold it under any of the names.
STACKS_READ = {f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")}
TIED = {"lm_head.weight": "shared.weight"}
IGNORED = {r"(encoder|decoder)\.version": "a buffer of fairseq's models"}
# It is zero in most models, and files of models without a head lack it.
SILENT = ("final_logits_bias",)

TABLE = Table(
    base="model",
    rules=(
        SHARED_RULE,
        *(Rule(name, name.replace(".", "/").replace("weight", "embedding")) for name in STACKS_READ),
        *stack_rules("encoder"),
        *self_attention_rules("encoder"),
        *DECODER_RULES,
    ),
    heads=HEAD_RULES,
    ignored=IGNORED,
    unused={r"classification_head\..*|qa_outputs\..*": "heads of BART's classes that are not here"},
    tied=TIED,
    repeats=STACKS_READ,
    silent=SILENT,
)
