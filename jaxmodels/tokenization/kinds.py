"""The kinds of values that options take. Anything else is refused in words, a file's value like a call's."""

import enum
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmodels.wording import brief

Kind = Callable[[str, Any], Any]
"""(name of the option, value) -> the value as Python's own type; ValueError for a value of another kind."""


def refused(name: str, expected: str, value) -> ValueError:
    return ValueError(f"{name} must be {expected}, got {brief(value)}")


def boolean(name: str, value) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise refused(name, "True or False", value)


def whole(least: int, most: int = 2**31 - 1) -> Kind:
    def check(name: str, value) -> int:
        try:
            number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
        except TypeError:
            number = None
        if number is None:
            raise refused(name, "a whole number", value)
        if number < least:
            raise refused(name, f"at least {least}", value)
        if number > most:
            raise refused(name, f"at most {most}", value)
        return number

    return check


def string(name: str, value) -> str:
    if not isinstance(value, str):
        raise refused(name, "a str", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be valid Unicode, got {ascii(value[:40])}: {error}") from None
    return value


def strings(name: str, value) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise refused(name, "a list of str", value)
    return [string(f"{name}[{i}]", each) for i, each in enumerate(value)]


def one_of(*choices) -> Kind:
    def check(name: str, value):
        if isinstance(value, enum.Enum):  # the reference's PaddingStrategy, TensorType
            value = value.value
        if isinstance(value, np.bool_):
            value = bool(value)
        # `in` alone would take 1 for True
        if any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            return value
        raise refused(name, f"one of {', '.join(map(repr, choices))}", value)

    return check


def optional(kind: Kind) -> Kind:
    return lambda name, value: None if value is None else kind(name, value)
