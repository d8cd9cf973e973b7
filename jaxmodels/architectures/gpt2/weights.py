"""GPT-2's weight table. Its torch layers are `Conv1D`: kernels are stored [in, out] (docs/parity.md, G2)."""

from jaxmodels.convert import Rule, Table

_LAYERS = "h/layers"


def _norm(torch: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{torch}.weight", f"{ours}/scale"), Rule(f"{torch}.bias", f"{ours}/bias")


TABLE = Table(
    base="transformer",
    rules=(
        Rule("wte.weight", "wte/embedding"),
        Rule("wpe.weight", "wpe/embedding"),
        *_norm("ln_f", "ln_f"),
        *_norm("h.{i}.ln_1", f"{_LAYERS}/attention_norm"),
        *_norm("h.{i}.ln_2", f"{_LAYERS}/feed_forward_norm"),
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
        *_norm("h.{i}.ln_cross_attn", f"{_LAYERS}/cross_attention_norm"),
        # Pruning leaves the cross attention whole, so its heads are not the axis `h`.
        Rule("h.{i}.crossattention.q_attn.weight", f"{_LAYERS}/cross_attention/q/kernel", "d (g k) -> d g k"),
        Rule("h.{i}.crossattention.q_attn.bias", f"{_LAYERS}/cross_attention/q/bias", "(g k) -> g k"),
        Rule("h.{i}.crossattention.c_attn.weight", f"{_LAYERS}/cross_attention/kv/kernel", "d (n g k) -> d n g k"),
        Rule("h.{i}.crossattention.c_attn.bias", f"{_LAYERS}/cross_attention/kv/bias", "(n g k) -> n g k"),
        Rule("h.{i}.crossattention.c_proj.weight", f"{_LAYERS}/cross_attention/out/kernel", "(g k) d -> g k d"),
        Rule("h.{i}.crossattention.c_proj.bias", f"{_LAYERS}/cross_attention/out/bias"),
        Rule("lm_head.weight", "lm_head/kernel", "v d -> d v"),
        Rule("score.weight", "score/kernel", "n d -> d n"),
        Rule("classifier.weight", "classifier/kernel", "n d -> d n"),
        Rule("classifier.bias", "classifier/bias"),
        Rule("qa_outputs.weight", "qa_outputs/kernel", "n d -> d n"),
        Rule("qa_outputs.bias", "qa_outputs/bias"),
        Rule("multiple_choice_head.summary.weight", "multiple_choice_head/summary/kernel", "n d -> d n"),
        Rule("multiple_choice_head.summary.bias", "multiple_choice_head/summary/bias"),
    ),
    ignored={
        r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)": "the causal mask, a buffer of the torch model",
    },
    tied={"lm_head.weight": "wte.weight"},
)
