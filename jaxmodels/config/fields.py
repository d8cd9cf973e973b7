"""What may stand in a field of a config: its annotation, read as a check. One for all fields of all families.

An annotation is made of int, float, bool, str, None, |, tuple[X, ...], Mapping[K, V] and Literal, or is
`Annotated[X, Reader]` where X alone does not say enough: the types `Count`, `Rate`, `TokenId` and so on below. Numbers
of numpy and JAX are numbers; true is no int, 3.0 is no int, 1 is no bool, and NaN and infinities are no floats.
"""

import dataclasses
import functools
import math
import numbers
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import jax.numpy as jnp
from flax.core import FrozenDict

# Foreign keys may hold any JSON; deeper ones would exhaust the stack of what reads or compares them.
_DEPTH = 32
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")


class UnfitError(Exception):
    """A value that does not fit; whoever knows the name of the field says so."""


class Reader(NamedTuple):
    """What fits, in words, and a function that returns a fitting value, frozen, or raises UnfitError."""

    expected: str
    read: Callable[[Any], Any]


def thaw(value):
    """Plain dicts and lists again."""
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    return [thaw(v) for v in value] if isinstance(value, tuple) else value


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if _is_scalar(value, jnp.bool_):
        return bool(value)
    raise UnfitError


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise UnfitError
    try:
        return operator.index(value)
    except TypeError:  # a traced value raises one as well
        raise UnfitError from None


def _float(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or _is_scalar(value, jnp.number)):
        raise UnfitError
    try:
        number = float(value)
    except (OverflowError, TypeError):
        raise UnfitError from None
    if not math.isfinite(number):
        raise UnfitError
    return number


def _is_scalar(value: Any, kind: Any) -> bool:
    """Of numpy or JAX, and of that kind."""
    dtype = getattr(value, "dtype", None)
    try:
        return dtype is not None and getattr(value, "ndim", None) == 0 and jnp.issubdtype(dtype, kind)
    except TypeError:  # another library's type
        return False


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitError
    return str(value)


def _none(value: Any) -> None:
    if value is not None:
        raise UnfitError


def _json(value: Any, depth: int = 0) -> Any:
    if depth > _DEPTH:
        raise UnfitError
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return FrozenDict({_str(key): _json(each, depth + 1) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_json(each, depth + 1) for each in value)
    for read in (_bool, _int):
        try:
            return read(value)
        except UnfitError:
            pass
    # A file's foreign keys may hold NaN; what is kept is what was written.
    return value if isinstance(value, float) else _float(value)


def _key(value: Any) -> Any:
    """An int, or its digits: keys are text in JSON."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else _int(value)


_SCALARS: Mapping[Any, Reader] = {
    int: Reader("an int", _int),
    float: Reader("a finite float", _float),
    bool: Reader("true or false", _bool),
    str: Reader("text", _str),
    type(None): Reader("None", _none),
    Any: Reader(f"a JSON value at most {_DEPTH} deep", _json),
}


def within(reader: Reader, expected: str, low: float, high: float, *, below: bool = False) -> Reader:
    """A number from `low` up to `high`, or only up to what is below it."""

    def read(value):
        number = reader.read(value)
        if not low <= number <= high or (below and number == high):
            raise UnfitError
        return number

    return Reader(expected, read)


def _count(low: int, high: int, expected: str) -> Reader:
    return within(_SCALARS[int], f"{expected} (at most {high})", low, high)


def _float_type(value: Any) -> str:
    try:
        kind = jnp.dtype(_str(value))
    except TypeError:
        raise UnfitError from None
    if not jnp.issubdtype(kind, jnp.floating) or kind.name != value:
        raise UnfitError
    return value


JSON, INT = _SCALARS[Any], _SCALARS[int]
# Limits are far above what was ever trained or planned, and low enough that nothing takes memory before it is refused.
_INT32 = 2**31 - 1
Count = Annotated[int, _count(1, 2**28, "a positive int")]
Rows = Annotated[int, _count(1, 2**28, "a positive int")]
CountOrZero = Annotated[int, _count(0, 2**28, "0 or a positive int")]
Layers = Annotated[int, _count(1, 2**16, "a positive int")]
Width = Annotated[int, _count(1, 2**24, "a positive int")]
WidthOrZero = Annotated[int, _count(0, 2**24, "0 or a positive int")]
Heads = Annotated[int, _count(1, 2**16, "a positive int")]
Labels = Annotated[int, _count(1, 2**22, "a positive int")]
TokenId = Annotated[int, _count(0, _INT32, "a token id, an int")]
Index = Annotated[int, within(Reader("", _key), f"an int from 0 to {_INT32}", 0, _INT32)]
Rate = Annotated[float, within(_SCALARS[float], "a rate in [0, 1)", 0.0, 1.0, below=True)]
Share = Annotated[float, within(_SCALARS[float], "a rate in [0, 1]", 0.0, 1.0)]
Spread = Annotated[float, within(_SCALARS[float], "a float in [0, 1000]", 0.0, 1000.0)]
FloatType = Annotated[str, Reader("the name of a floating type such as 'bfloat16'", _float_type)]


@functools.cache
def readers(cls: type) -> Mapping[str, Reader]:
    """One for each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls)}


class Declared(NamedTuple):
    """What the fields of a config class are: defaults and readers by name, names by the keys of a config.json, and the
    names of those that say how large a model is."""

    defaults: Mapping[str, Any]
    readers: Mapping[str, Reader]
    keys: Mapping[str, str]
    layers: tuple[str, ...]
    widths: tuple[str, ...]
    rows: tuple[str, ...]


def declared(cls: type, aliases: Mapping[str, str]) -> Declared:
    """Of a dataclass.

    Args:
      aliases: other keys -> names.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls, include_extras=True)
    return Declared(
        defaults,
        readers(cls),
        {name: name for name in defaults if name not in ("generation", "extra")} | dict(aliases),
        *(tuple(name for name in defaults if hints[name] in (kind, kind | None)) for kind in (Layers, Width, Rows)),
    )


def _reader(kind: Any) -> Reader:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return arguments[1]
    if origin in (Union, types.UnionType):
        return _either([_reader(each) for each in arguments])
    if origin is Literal:
        return _choice(arguments)
    if origin is tuple:
        return _sequence(_reader(arguments[0]))
    if origin is Mapping:
        return _mapping(*map(_reader, arguments), digits=arguments[0] is not str)
    return _SCALARS[kind]


def _either(options: list[Reader]) -> Reader:
    def read(value):
        for option in options:
            try:
                return option.read(value)
            except UnfitError:
                pass
        raise UnfitError

    return Reader(" or ".join(option.expected for option in options), read)


def _choice(options: Collection[str]) -> Reader:
    def read(value):
        if not isinstance(value, str) or value not in options:
            raise UnfitError
        return value

    return Reader(f"one of {', '.join(map(repr, options))}", read)


def _sequence(one: Reader) -> Reader:
    def read(value):
        if not isinstance(value, list | tuple):
            raise UnfitError
        return tuple(map(one.read, value))

    return Reader(f"a list of ({one.expected})", read)


def _mapping(key: Reader, each: Reader, *, digits: bool) -> Reader:
    read_key = (lambda value: key.read(_key(value))) if digits else key.read

    def read(value):
        if not isinstance(value, Mapping):
            raise UnfitError
        found = FrozenDict({read_key(name): each.read(item) for name, item in value.items()})
        if len(found) < len(value):  # 1 and "1"
            raise UnfitError
        return found

    return Reader(f"a mapping of ({key.expected}) to ({each.expected})", read)
