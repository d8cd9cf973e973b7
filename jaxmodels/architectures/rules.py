"""Weight rules of torch's modules."""

from jaxmodels.convert import Rule


def dense_rules(torch: str, path: str) -> tuple[Rule, Rule]:
    """torch's Linear, which stores [out, in]."""
    return Rule(f"{torch}.weight", f"{path}/kernel", "o i -> i o"), Rule(f"{torch}.bias", f"{path}/bias")


def norm_rules(torch: str, path: str) -> tuple[Rule, Rule]:
    """torch's LayerNorm."""
    return Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")


def projection_rules(torch: tuple[str, ...], path: str) -> tuple[Rule, Rule]:
    """torch's Linears [(H K), D] as one kernel of heads, [D,H,K] for one of them and [D,N,H,K] for several."""
    if len(torch) == 1:
        return (
            Rule(f"{torch[0]}.weight", f"{path}/kernel", "(h k) d -> d h k"),
            Rule(f"{torch[0]}.bias", f"{path}/bias", "(h k) -> h k"),
        )
    return (
        Rule(tuple(f"{name}.weight" for name in torch), f"{path}/kernel", "n (h k) d -> d n h k"),
        Rule(tuple(f"{name}.bias" for name in torch), f"{path}/bias", "n (h k) -> n h k"),
    )


def out_projection_rules(torch: str, path: str) -> tuple[Rule, Rule]:
    """torch's Linear [D, (H K)] from heads to hidden states."""
    return Rule(f"{torch}.weight", f"{path}/kernel", "d (h k) -> h k d"), Rule(f"{torch}.bias", f"{path}/bias")


# Heads of decoder-only models: language model, classifiers of sequences and tokens, question answering.
DECODER_HEAD_RULES = (
    Rule("lm_head.weight", "lm_head/kernel", "o i -> i o"),
    Rule("score.weight", "score/kernel", "o i -> i o"),
    *dense_rules("classifier", "classifier"),
    *dense_rules("qa_outputs", "qa_outputs"),
)
