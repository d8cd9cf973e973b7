"""T5's weight table. Files of both classes use the same names, without a prefix (torch's Linear stores [out, in])."""

from jaxmodels.convert import Rule, Table


def _norm(torch: str, path: str) -> Rule:
    return Rule(f"{torch}.layer_norm.weight", f"{path}_norm/scale")


def _stack(stack: str, feed_forward: int) -> tuple[Rule, ...]:
    """What both stacks have.

    feed_forward: place of the feed-forward part in a block.
    """
    block, path = f"{stack}.block.{{i}}.layer", f"{stack}/block/layers"
    attention, dense = f"{block}.0.SelfAttention", f"{block}.{feed_forward}.DenseReluDense"
    return (
        Rule(
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"{stack}/relative_attention_bias/embedding",
        ),
        Rule(f"{stack}.final_layer_norm.weight", f"{stack}/final_layer_norm/scale"),
        _norm(f"{block}.0", f"{path}/attention"),
        Rule(
            tuple(f"{attention}.{part}.weight" for part in "qkv"),
            f"{path}/attention/qkv/kernel",
            "n (h k) d -> d n h k",
        ),
        Rule(f"{attention}.o.weight", f"{path}/attention/out/kernel", "d (h k) -> h k d"),
        _norm(f"{block}.{feed_forward}", f"{path}/feed_forward"),
        Rule(f"{dense}.wi.weight", f"{path}/feed_forward/up/kernel", "f d -> d f"),
        Rule((f"{dense}.wi_0.weight", f"{dense}.wi_1.weight"), f"{path}/feed_forward/gate_up/kernel", "n f d -> d n f"),
        Rule(f"{dense}.wo.weight", f"{path}/feed_forward/down/kernel", "d f -> f d"),
    )


_CROSS = "decoder.block.{i}.layer.1"
_PATH = "decoder/block/layers/cross_attention"

TABLE = Table(
    base="",
    rules=(
        Rule("shared.weight", "shared/embedding"),
        *_stack("encoder", feed_forward=1),
        *_stack("decoder", feed_forward=2),
        _norm(_CROSS, _PATH),
        Rule(f"{_CROSS}.EncDecAttention.q.weight", f"{_PATH}/q/kernel", "(h k) d -> d h k"),
        Rule(
            (f"{_CROSS}.EncDecAttention.k.weight", f"{_CROSS}.EncDecAttention.v.weight"),
            f"{_PATH}/kv/kernel",
            "n (h k) d -> d n h k",
        ),
        Rule(f"{_CROSS}.EncDecAttention.o.weight", f"{_PATH}/out/kernel", "d (h k) -> h k d"),
    ),
    heads=(Rule("lm_head.weight", "lm_head/kernel", "v d -> d v"),),
    ignored={
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": (
            "of the first releases; the cross attention has no relative positions"
        ),
    },
    unused={r"classification_head\..*|qa_outputs\..*|classifier\..*": "heads of T5's classes that are not here"},
    tied={"lm_head.weight": "shared.weight"},
    # Both stacks read the one table; files may hold it under any of the names.
    repeats={f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")},
)
