"""What a model's methods take, and that a call gives them that; looked at before Flax does anything.

Python's answer to a wrong keyword names a method deep inside, a wrong key of `rngs` has none at all, and a mask of
the wrong kind gives numbers. Values are looked at only where they are concrete; nothing here adds an operation.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.architectures.inputs import check_integers, check_mask, check_numbers
from jaxmodels.layers.cache import Cache
from jaxmodels.messages import brief, unknown_name
from jaxmodels.outputs import Output
from jaxmodels.parameters import check_key

_DROPOUT = "dropout is active where the call has rngs={'dropout': key}, and only there; leave it out"
# Arguments of the reference's classes, PyTorch's and Flax's, and what to write here.
UNSUPPORTED = {
    "past_key_values": "it is called cache=, from model.init_cache(batch, length) or an earlier output",
    "use_cache": "a cache is used when one is passed: cache=model.init_cache(batch, length)",
    "cache_position": "positions follow from the cache, or are given as position_ids=",
    "params": "parameters come first: model.apply({'params': params}, input_ids)",
    "dropout_rng": "it is called rngs={'dropout': key}",
    "deterministic": _DROPOUT,
    "train": _DROPOUT,
    "training": _DROPOUT,
    "num_logits_to_keep": "it is called logits_to_keep=",
    "num_items_in_batch": "the loss is a mean; a weight= of training.make_step says over what",
    "dtype": "types are attributes of the model: model.clone(dtype=...)",
    "attention": "the implementation is an attribute of the model: model.clone(attention=...)",
    "attn_implementation": "the implementation is an attribute of the model: model.clone(attention=...)",
    "lm_labels": "it is called labels=",
    "masked_lm_labels": "it is called labels=",
    "mask": "it is called attention_mask=",
    "inputs": "it is called input_ids=",
    "n_documents": "it is called n_docs=",
}


@functools.cache
def parameters(cls: Any, method: str) -> dict[str, inspect.Parameter]:
    """By name, what a method takes, with what it hands on: to the class above, or to that of its `body`."""
    found: dict[str, inspect.Parameter] = {}
    body = getattr(cls, "body", None)
    for owner in (cls,) if body is None else (cls, body):
        for kind in owner.__mro__:
            if method not in vars(kind):
                continue
            declared = [p for name, p in inspect.signature(vars(kind)[method]).parameters.items() if name != "self"]
            found |= {
                p.name: p for p in declared if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in found
            }
            if all(p.kind is not p.VAR_KEYWORD for p in declared):
                return found
    extra = cls.encoding_options if method == "__call__" else ()
    return found | {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in extra}


def check_call(cls: Any, method: str, args: tuple, options: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError where a call of the method has an argument that it does not take, by name or kind.

    What depends on the config, such as the range of ids, is left to the method.
    """
    known = parameters(cls, method)
    where = cls.__name__ if method == "__call__" else f"{cls.__name__}.{method}"
    for name in options:
        if name not in known:
            raise TypeError(
                unknown_name(f"{where} has no argument", name, known, {**UNSUPPORTED, **_with(cls, method, name)})
            )
    positional = [p.name for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(positional):
        keywords = ", ".join(f"{name}=" for name in known if name not in positional)
        raise TypeError(
            f"{where} takes {' and '.join(positional)} positionally, all else by name ({keywords}); got {len(args)}"
        )
    passed = {**dict(zip(positional, args, strict=False)), **options}
    if len(passed) < len(args) + len(options):
        raise TypeError(f"{where} got {positional[0]} twice, positionally and by name")
    for name, p in known.items():
        if p.default is p.empty and name not in passed:
            raise TypeError(f"{where} needs {name}")
    for name, value in passed.items():
        if value is not None and name in CHECKS:
            CHECKS[name](name, value)


def _with(cls: Any, method: str, name: str) -> dict[str, str]:
    """For an argument of other classes of the family, such as labels: which these are."""
    root = next(kind for kind in reversed(cls.__mro__) if "body" in vars(kind))
    family = [kind for kind in _below(root) if getattr(kind, "config_class", None) is cls.config_class]
    names = [kind.__name__ for kind in family if name in parameters(kind, method) and not kind.__name__.startswith("_")]
    return {name: f"it is an argument of {', '.join(names)}"} if names else {}


def _below(cls: type) -> dict[type, None]:
    found: dict[type, None] = {cls: None}
    child: type
    for child in cls.__subclasses__():
        found |= _below(child)
    return found


def check_rngs(cls: type, rngs: Any, *, initialising: bool) -> None:
    """Raises TypeError where the random keys of a call are not by name, or under names that nothing reads.

    initialising: "params" makes the parameters; else it is of no use without "dropout", and there is a warning.
    """
    wanted = "{'params': key}" if initialising else "{'dropout': key}"
    if not isinstance(rngs, Mapping):
        if initialising:
            return
        raise TypeError(f"{cls.__name__}: rngs is {wanted}, got {brief(rngs)}")
    for name, key in rngs.items():
        if not isinstance(name, str) or name not in ("params", "dropout"):
            raise TypeError(unknown_name(f"{cls.__name__}: rngs has no use for", str(name), ("params", "dropout")))
        check_key(f"rngs[{name!r}]", key)
    if rngs and not initialising and "dropout" not in rngs:  # as Flax's NNX passes its one default key to every call
        warnings.warn(
            f"{cls.__name__}: rngs has 'params' only, and a call draws nothing from it; for dropout {wanted}",
            stacklevel=3,
        )


def _check_switch(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is True, False or None, got {brief(value)}")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is a number, got {brief(value)}")
    if value < 0:
        raise ValueError(f"{name} is a number of at least 0, got {value}")


def _check_cache(name: str, value: Any) -> None:
    if not isinstance(value, Cache):
        raise TypeError(
            f"{name} is from model.init_cache(batch, length) or an earlier output, got {type(value).__name__}"
        )


def _check_encoded(name: str, value: Any) -> None:
    if not isinstance(value, Output | tuple):
        raise TypeError(
            f"{name} is what `encode` returned, or a tuple with the states [B,S,D] first; got {type(value).__name__}"
        )


def _check_retriever(name: str, value: Any) -> None:
    if not callable(getattr(value, "find", None)):
        raise TypeError(f"{name} has a method `find`, as a RagRetriever has; got {type(value).__name__}")


_INTEGERS: tuple[str, ...] = ("input_ids", "decoder_input_ids", "context_input_ids", "token_type_ids", "position_ids")
_INTEGERS += ("mc_token_ids", "mc_labels", "start_positions", "end_positions", "next_sentence_label")
_MASKS = ("attention_mask", "decoder_attention_mask", "encoder_attention_mask", "context_attention_mask")
_NUMBERS: tuple[str, ...] = ("labels", "inputs_embeds", "decoder_inputs_embeds", "encoder_hidden_states", "doc_scores")
_NUMBERS += ("head_mask", "decoder_head_mask", "cross_attn_head_mask", "global_attention_mask")
_SWITCHES: tuple[str, ...] = ("output_attentions", "output_hidden_states", "return_dict", "output_retrieved")
_SWITCHES += ("exclude_bos_score", "reduce_loss", "do_marginalize")
CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_INTEGERS, check_integers),
    **dict.fromkeys(_MASKS, check_mask),
    **dict.fromkeys(_NUMBERS, check_numbers),
    **dict.fromkeys(_SWITCHES, _check_switch),
    **dict.fromkeys(("n_docs", "logits_to_keep", "max_global_tokens"), _check_count),
    "cache": _check_cache,
    "encoder_outputs": _check_encoded,
    "retriever": _check_retriever,
}
