"""Weight rules of torch's modules."""

from jaxmodels.convert import Rule


def dense_rules(torch: str, path: str) -> tuple[Rule, Rule]:
    """torch's Linear, which stores [out, in]."""
    return Rule(f"{torch}.weight", f"{path}/kernel", "o i -> i o"), Rule(f"{torch}.bias", f"{path}/bias")


def norm_rules(torch: str, path: str) -> tuple[Rule, Rule]:
    """torch's LayerNorm."""
    return Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")


# Heads of decoder-only models: language model, classifiers of sequences and tokens, question answering.
DECODER_HEAD_RULES = (
    Rule("lm_head.weight", "lm_head/kernel", "o i -> i o"),
    Rule("score.weight", "score/kernel", "o i -> i o"),
    *dense_rules("classifier", "classifier"),
    *dense_rules("qa_outputs", "qa_outputs"),
)
