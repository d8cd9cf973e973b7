"""Checks that the configs of several families make; each raises a ValueError that names the key."""

from jaxmodels.config import Config


def check_positive(config: Config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(config).__name__}: {name} is a positive int, got {value!r}")


def check_rates(config: Config, *names: str) -> None:
    """None stands for a rate that is given elsewhere."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= (value or 0.0) < 1.0:
            raise ValueError(f"{type(config).__name__}: {name} is a rate in [0, 1), got {value!r}")


def check_heads(config: Config) -> None:
    """The heads divide the width, and those that are pruned exist."""
    name, width = type(config).__name__, config.hidden_size
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if width % heads:
        raise ValueError(
            f"{name}: {_own(config, 'num_attention_heads')}={heads} does not divide "
            f"{_own(config, 'hidden_size')}={width}"
        )
    for layer, gone in config.pruned_heads.items():
        if not 0 <= layer < layers or any(not 0 <= h < heads for h in gone):
            raise ValueError(
                f"{name}: pruned_heads names layer {layer}, heads {list(gone)}; "
                f"there are {layers} layers of {heads} heads"
            )
        if len(gone) == heads:
            raise ValueError(f"{name}: pruned_heads leaves no head in layer {layer}")


def _own(config: Config, name: str) -> str:
    return config.aliases.get(name, name)
