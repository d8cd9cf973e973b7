"""Checks that the configs of several families make; each raises a ValueError that names the key."""

from jaxmodels.config import Config
from jaxmodels.layers.feed_forward import ACTIVATIONS
from jaxmodels.messages import brief


def check_heads(config: Config) -> None:
    """The heads divide the width, and those that are pruned exist."""
    name, width = type(config).__name__, config.hidden_size
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if width % heads:
        raise ValueError(
            f"{name}: {_own(config, 'num_attention_heads')}={heads} does not divide "
            f"{_own(config, 'hidden_size')}={width}"
        )
    for layer, pruned in config.pruned_heads.items():
        if not 0 <= layer < layers or any(not 0 <= h < heads for h in pruned):
            raise ValueError(
                f"{name}: pruned_heads names layer {layer}, heads {list(pruned)}; "
                f"there are {layers} layers of {heads} heads"
            )
        if len(pruned) == heads:
            raise ValueError(f"{name}: pruned_heads leaves no head in layer {layer}")


def check_activation(config: Config, key: str, name: str) -> None:
    """The activation that a key names exists."""
    if name not in ACTIVATIONS:
        there = f"there are {', '.join(sorted(ACTIVATIONS))}"
        raise ValueError(f"{type(config).__name__}: {key} names no activation {brief(name)}; {there}")


def check_inside_vocabulary(config: Config, *names: str) -> None:
    """None stands for no id."""
    for name in names:
        token = getattr(config, name)
        if token is not None and token >= config.vocab_size:
            where = f"is outside the vocabulary of {config.vocab_size}"
            raise ValueError(f"{type(config).__name__}: {name}={token} {where}")


def _own(config: Config, name: str) -> str:
    return config.aliases.get(name, name)
