"""Weight rules of torch's modules."""

from jaxmodels.convert import Rule


def dense_rules(torch: str, ours: str) -> tuple[Rule, Rule]:
    """torch's Linear stores [out, in]."""
    return Rule(f"{torch}.weight", f"{ours}/kernel", "o i -> i o"), Rule(f"{torch}.bias", f"{ours}/bias")


def norm_rules(torch: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{torch}.weight", f"{ours}/scale"), Rule(f"{torch}.bias", f"{ours}/bias")
