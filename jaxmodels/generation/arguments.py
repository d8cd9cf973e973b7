"""What a call of `generate` is given beside its options: looked at before anything is traced or compiled."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.calls import parameters
from jaxmodels.generation.callbacks import PrefixFunction, Streamer
from jaxmodels.generation.keys import as_keys
from jaxmodels.generation.processors import Processor
from jaxmodels.generation.search import Criterion
from jaxmodels.generation.stopping import Decodes
from jaxmodels.layers.keys_values import check_kept_dtype
from jaxmodels.messages import brief


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a call says beside the inputs and the options; see `generate`.

    Raises:
      TypeError: no function, key or type where one is expected. ValueError: a type that no cache has.
    """

    generation_config: Any = None
    key: jax.Array | None = None
    streamer: Streamer | None = None
    logits_processor: Sequence[Processor] = ()
    stopping_criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: PrefixFunction | None = None
    tokenizer: Decodes | None = None
    cache_dtype: Any = None

    def __post_init__(self):
        for name in ("logits_processor", "stopping_criteria"):
            object.__setattr__(self, name, _functions(name, getattr(self, name)))
        for name, takes in (("streamer", "the new ids [B]"), ("prefix_allowed_tokens_fn", "(example, ids so far)")):
            if (function := getattr(self, name)) is not None and not callable(function):
                hint = "; of transformers' it is lambda ids: streamer.put(ids)" if hasattr(function, "put") else ""
                raise TypeError(f"{name} is a function of {takes}, got {type(function).__name__}{hint}")
        if self.key is not None:
            object.__setattr__(self, "key", as_keys(self.key))
        if self.tokenizer is not None and not callable(getattr(self.tokenizer, "decode", None)):
            raise TypeError(f"tokenizer has a method `decode`, as those of load_tokenizer; got {brief(self.tokenizer)}")
        if self.cache_dtype is not None:
            object.__setattr__(self, "cache_dtype", _kept(self.cache_dtype))


def _kept(dtype: Any) -> jnp.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"cache_dtype is a type such as 'bfloat16' or 'int8', got {brief(dtype)}") from None
    check_kept_dtype(found)
    return found


def _functions(name: str, value: Any) -> tuple[Callable, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} is a list of functions of (text, scores), got {brief(value)}")
    for function in value:
        if not callable(function):
            raise TypeError(f"{name} is a list of functions of (text, scores), got {brief(function)} in it")
        if type(function).__module__.startswith(("transformers.", "torch.")):
            raise TypeError(
                f"{name} has functions of JAX arrays (text, scores), which run inside the compiled loop; "
                f"{type(function).__name__} is PyTorch's"
            )
    return tuple(value)


def check_model(model: Any, params: Any) -> None:
    """Raises TypeError where the model does not generate, or the parameters are none."""
    if not isinstance(model, Model):
        raise TypeError(f"generate takes a model and its parameters, as jm.load gives them; got {brief(model)}")
    kind: Any = type(model)
    method = "decode" if model.config.is_encoder_decoder else "__call__"
    if not hasattr(model, "marginal") and "logits_to_keep" not in parameters(kind, method):
        raise TypeError(
            f"{type(model).__name__} has no head of a language model and does not generate; load another class: "
            "jm.load(name, cls=...)"
        )
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"params are those of the model, as jm.load gives them, got {brief(params)}")
    if "params" in params:
        raise TypeError("params are those of the model alone: variables['params']")


def check_concrete(arguments: Mapping[str, Any]) -> None:
    """Raises TypeError where an argument, or a part of it, is traced."""
    for name, value in arguments.items():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in _leaves(value)):
            raise TypeError(
                f"generate compiles its own loop and pads to buckets: call it outside jit; {name} is traced"
            )


def _leaves(value: Any) -> list[Any]:
    try:
        return jax.tree.leaves(value)
    except (TypeError, ValueError):  # keys that cannot be sorted
        return [value]
