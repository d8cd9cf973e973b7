"""GPT-2's weight table. Its torch layers are `Conv1D`: kernels are stored [in, out] (docs/parity.md, G2)."""

from jaxmodels.architectures.rules import DECODER_HEAD_RULES, dense_rules, norm_rules
from jaxmodels.convert import Rule, Table

_LAYERS = "h/layers"


TABLE = Table(
    base="transformer",
    rules=(
        Rule("wte.weight", "wte/embedding"),
        Rule("wpe.weight", "wpe/embedding"),
        *norm_rules("ln_f", "ln_f"),
        *norm_rules("h.{i}.ln_1", f"{_LAYERS}/attention_norm"),
        *norm_rules("h.{i}.ln_2", f"{_LAYERS}/feed_forward_norm"),
        Rule("h.{i}.attn.c_attn.weight", f"{_LAYERS}/attention/qkv/kernel", "d (n h k) -> d n h k"),
        Rule("h.{i}.attn.c_attn.bias", f"{_LAYERS}/attention/qkv/bias", "(n h k) -> n h k"),
        Rule("h.{i}.attn.c_proj.weight", f"{_LAYERS}/attention/out/kernel", "(h k) d -> h k d"),
        Rule("h.{i}.attn.c_proj.bias", f"{_LAYERS}/attention/out/bias"),
        Rule("h.{i}.mlp.c_fc.weight", f"{_LAYERS}/feed_forward/up/kernel"),
        Rule("h.{i}.mlp.c_fc.bias", f"{_LAYERS}/feed_forward/up/bias"),
        Rule("h.{i}.mlp.c_proj.weight", f"{_LAYERS}/feed_forward/down/kernel"),
        Rule("h.{i}.mlp.c_proj.bias", f"{_LAYERS}/feed_forward/down/bias"),
    ),
    heads=(
        *norm_rules("h.{i}.ln_cross_attn", f"{_LAYERS}/cross_attention_norm"),
        # Pruning leaves the cross attention whole, so its heads are not the axis `h`.
        Rule("h.{i}.crossattention.q_attn.weight", f"{_LAYERS}/cross_attention/q/kernel", "d (g k) -> d g k"),
        Rule("h.{i}.crossattention.q_attn.bias", f"{_LAYERS}/cross_attention/q/bias", "(g k) -> g k"),
        Rule("h.{i}.crossattention.c_attn.weight", f"{_LAYERS}/cross_attention/kv/kernel", "d (n g k) -> d n g k"),
        Rule("h.{i}.crossattention.c_attn.bias", f"{_LAYERS}/cross_attention/kv/bias", "(n g k) -> n g k"),
        Rule("h.{i}.crossattention.c_proj.weight", f"{_LAYERS}/cross_attention/out/kernel", "(g k) d -> g k d"),
        Rule("h.{i}.crossattention.c_proj.bias", f"{_LAYERS}/cross_attention/out/bias"),
        *DECODER_HEAD_RULES,
        *dense_rules("multiple_choice_head.summary", "multiple_choice_head/summary"),
    ),
    ignored={
        r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)": "the causal mask, a buffer of the torch model",
    },
    tied={"lm_head.weight": "wte.weight"},
)
