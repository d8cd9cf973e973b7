"""LED's weight table (docs/parity.md, L17)."""

from jaxmodels.architectures.bart.weights import (
    DECODER_RULES,
    HEAD_RULES,
    IGNORED,
    SHARED_RULE,
    SILENT,
    STACKS_READ,
    TIED,
    stack_rules,
)
from jaxmodels.architectures.rules import dense_rules, out_projection_rules, projection_rules
from jaxmodels.convert import Table

_TORCH = "encoder.layers.{i}.self_attn"
_PATH = "encoder/stack/layers/attention"
_LOCAL = tuple(f"{_TORCH}.longformer_self_attn.{part}" for part in ("query", "key", "value"))

TABLE = Table(
    base="led",
    rules=(
        SHARED_RULE,
        *stack_rules("encoder"),
        *projection_rules(_LOCAL, f"{_PATH}/qkv"),
        *(
            rule
            for name in _LOCAL
            for rule in projection_rules((f"{name}_global",), f"{_PATH}/global_{name.split('.')[-1][0]}")
        ),
        *out_projection_rules(f"{_TORCH}.output", f"{_PATH}/out"),
        *DECODER_RULES,
    ),
    heads=(
        *HEAD_RULES,
        *dense_rules("classification_head.dense", "classification_head/dense"),
        *dense_rules("classification_head.out_proj", "classification_head/out_proj"),
        *dense_rules("qa_outputs", "qa_outputs"),
    ),
    ignored=IGNORED,
    tied=TIED,
    repeats=STACKS_READ,
    silent=SILENT,
)
