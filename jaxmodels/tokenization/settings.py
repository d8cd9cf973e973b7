"""The settings that tokenizers have, in their files and as arguments of their constructors, and what each takes."""

import codecs
from collections.abc import Mapping
from typing import Any

from jaxmodels.tokenization.kinds import Kind, boolean, one_of, optional, refused, string, strings, whole

COMMON = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "chat_template")
COMMON += ("clean_up_tokenization_spaces", "split_special_tokens")
"""Those of every family. A family's own are its class's `OPTIONS`."""


def _length(name: str, value) -> int:
    # files write "no limit" as 1e30, too
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        raise refused(name, "a whole number", value)
    return whole(1, 10**100)(name, value)


def _templates(name: str, value) -> str | dict[str, str]:
    if isinstance(value, (list, tuple)):  # as tokenizer_config.json has them
        if not all(isinstance(each, Mapping) and {"name", "template"} <= each.keys() for each in value):
            raise refused(name, 'a list of {"name": ..., "template": ...}', value)
        value = {string(f"{name}: name", each["name"]): each["template"] for each in value}
    if isinstance(value, Mapping):
        return {string(f"{name}: name", key): string(f"{name}[{key!r}]", text) for key, text in value.items()}
    return string(name, value)


def _errors(name: str, value) -> str:
    try:
        codecs.lookup_error(string(name, value))
    except LookupError:
        raise refused(name, "what bytes.decode takes (replace, ignore, strict, ...)", value) from None
    return value


def _none(name: str, value) -> dict:
    if isinstance(value, Mapping) and not value:
        return {}
    raise ValueError(f"{name} is not supported: tokenizations are not sampled, got {value!r}")


_side = one_of("right", "left")
_KINDS: dict[str, Kind] = {
    "model_max_length": optional(_length),
    "padding_side": _side,
    "truncation_side": _side,
    "model_input_names": optional(strings),
    "chat_template": optional(_templates),
    "clean_up_tokenization_spaces": boolean,
    "split_special_tokens": boolean,
    "errors": _errors,
    "add_prefix_space": boolean,
    "add_bos_token": boolean,
    "trim_offsets": boolean,
    "do_lower_case": boolean,
    "do_basic_tokenize": boolean,
    "never_split": optional(strings),
    "tokenize_chinese_chars": boolean,
    "strip_accents": optional(boolean),
    "extra_ids": whole(0, 10**6),
    "legacy": optional(boolean),
    "sp_model_kwargs": optional(_none),
}


def check(name: str, value) -> Any:
    """The value of a setting as Python's own type.

    Raises:
      ValueError: a value of another kind; it says which kind the setting takes.
    """
    return _KINDS[name](name, value)


def is_setting(name: str) -> bool:
    return name in _KINDS
