"""Validators of option values, used for calls, constructors and files alike.

A validator takes the option's name and a value. It returns the value as a built-in Python type or raises ValueError.
"""

import codecs
import enum
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from jaxmodels.messages import brief

Validator: TypeAlias = Callable[[str, Any], Any]

COMMON_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "chat_template",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
)
"""Settings of every tokenizer. Those of one class are its `OPTIONS`."""


def invalid(name: str, expected: str, value: object) -> ValueError:
    """Return the error for an option's value: what was expected and what was passed."""
    return ValueError(f"{name} must be {expected}, got {brief(value)}")


def boolean(name: str, value: Any) -> bool:
    """Validate True or False, of Python or NumPy."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise invalid(name, "True or False", value)


def integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str, Any], int]:
    """Return the validator of integers from `minimum` to `maximum`, both included."""

    def validate(name: str, value: Any) -> int:
        try:
            number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
        except TypeError:
            number = None
        if number is None:
            raise invalid(name, "an integer", value)
        if number < minimum:
            raise invalid(name, f"at least {minimum}", value)
        if number > maximum:
            raise invalid(name, f"at most {maximum}", value)
        return number

    return validate


# No embedding table has more rows; a larger id means a damaged file.
token_id = integer(0, 2**24)


def string(name: str, value: Any) -> str:
    """Validate a str that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise invalid(name, "a str", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be valid Unicode, got {ascii(value[:40])}: {error}") from None
    return value


def strings(name: str, value: Any) -> list[str]:
    """Validate a list or tuple of str."""
    if not isinstance(value, (list, tuple)):
        raise invalid(name, "a list of str", value)
    return [string(f"{name}[{i}]", item) for i, item in enumerate(value)]


def one_of(*choices: Any) -> Validator:
    """Return the validator of the given choices, which may also be passed as members of an enum."""

    def validate(name: str, value: Any) -> Any:
        if isinstance(value, enum.Enum):  # transformers' PaddingStrategy and TensorType
            value = value.value
        if isinstance(value, np.bool_):
            value = bool(value)
        # `in` alone would accept 1 for True
        if any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            return value
        raise invalid(name, f"one of {', '.join(map(repr, choices))}", value)

    return validate


def optional(validator: Validator) -> Validator:
    """Return a validator that also accepts None."""
    return lambda name, value: None if value is None else validator(name, value)


def validate_setting(name: str, value: Any) -> Any:
    """Return the value of a tokenizer setting as a built-in Python type.

    Raises:
      ValueError: the value has another type or is out of range.
    """
    return _SETTINGS[name](name, value)


def is_setting(name: str) -> bool:
    """Whether `validate_setting` has a validator of that name."""
    return name in _SETTINGS


def _max_length(name: str, value: Any) -> int:
    # files also write "no limit" as the float 1e30
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        raise invalid(name, "an integer", value)
    return integer(1, 10**100)(name, value)


def _chat_templates(name: str, value: Any) -> str | dict[str, str]:
    if isinstance(value, (list, tuple)):  # the form of tokenizer_config.json
        if not all(isinstance(item, Mapping) and {"name", "template"} <= item.keys() for item in value):
            raise invalid(name, 'a list of {"name": ..., "template": ...}', value)
        value = {string(f"{name}: name", item["name"]): item["template"] for item in value}
    if isinstance(value, Mapping):
        return {string(f"{name}: name", key): string(f"{name}[{key!r}]", text) for key, text in value.items()}
    return string(name, value)


def _decoding_errors(name: str, value: Any) -> str:
    try:
        codecs.lookup_error(string(name, value))
    except LookupError:
        raise invalid(name, "an error handler of bytes.decode (replace, ignore, strict, ...)", value) from None
    return value


def _empty_mapping(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping) and not value:
        return {}
    raise ValueError(f"{name} is not supported (sampling of tokenizations is not implemented), got {brief(value)}")


_side = one_of("right", "left")
_SETTINGS: dict[str, Validator] = {
    "model_max_length": optional(_max_length),
    "padding_side": _side,
    "truncation_side": _side,
    "model_input_names": optional(strings),
    "chat_template": optional(_chat_templates),
    "clean_up_tokenization_spaces": boolean,
    "split_special_tokens": boolean,
    "errors": _decoding_errors,
    "add_prefix_space": boolean,
    "add_bos_token": boolean,
    "add_eos_token": boolean,
    "trim_offsets": boolean,
    "do_lower_case": boolean,
    "do_basic_tokenize": boolean,
    "never_split": optional(strings),
    "tokenize_chinese_chars": boolean,
    "strip_accents": optional(boolean),
    "extra_ids": integer(0, 10**6),
    "legacy": optional(boolean),
    "sp_model_kwargs": optional(_empty_mapping),
}
