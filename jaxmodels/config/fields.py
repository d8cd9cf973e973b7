"""Types of config fields, and the validators that their annotations stand for.

An annotation is made of int, float, bool, str, None, |, tuple[X, ...], Mapping[K, V] and Literal, or is
`Annotated[X, Validator]` where X alone is not precise enough: `PositiveInt`, `DropoutRate`, `TokenId` and the others
below. NumPy and JAX scalars are accepted as numbers. Types are strict: True is not an int, 3.0 is not an int, 1 is not
a bool, and NaN and infinities are not floats.
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
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, dataclass_transform, get_args, get_origin

import jax.numpy as jnp
from flax.core import FrozenDict

# Unknown keys may hold any JSON value; deeper nesting could overflow the stack of code that reads or compares it.
_MAX_JSON_DEPTH = 32
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")


class InvalidValueError(Exception):
    """A value that a validator rejects. The caller, which knows the name of the field, raises the user's error."""


class Validator(NamedTuple):
    """Check of one value.

    Attributes:
      expected: description of valid values, for error messages.
      validate: returns a valid value in its immutable form; raises InvalidValueError otherwise.
    """

    expected: str
    validate: Callable[[Any], Any]


def thaw(value: Any) -> Any:
    """Converts immutable mappings and tuples, at any depth, back to dicts and lists."""
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    return [thaw(v) for v in value] if isinstance(value, tuple) else value


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if _is_scalar_array(value, jnp.bool_):
        return bool(value)
    raise InvalidValueError


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise InvalidValueError
    try:
        return operator.index(value)
    except TypeError:  # also raised for tracers
        raise InvalidValueError from None


def _float(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or _is_scalar_array(value, jnp.number)):
        raise InvalidValueError
    try:
        number = float(value)
    except (OverflowError, TypeError):
        raise InvalidValueError from None
    if not math.isfinite(number):
        raise InvalidValueError
    return number


def _is_scalar_array(value: Any, dtype: Any) -> bool:
    """Whether the value is a NumPy or JAX scalar of this dtype or of one of its subtypes."""
    found = getattr(value, "dtype", None)
    try:
        return found is not None and getattr(value, "ndim", None) == 0 and jnp.issubdtype(found, dtype)
    except TypeError:  # a dtype of another library
        return False


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError
    return str(value)


def _none(value: Any) -> None:
    if value is not None:
        raise InvalidValueError


def _json(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_JSON_DEPTH:
        raise InvalidValueError
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return FrozenDict({_str(key): _json(each, depth + 1) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_json(each, depth + 1) for each in value)
    for validate in (_bool, _int):
        try:
            return validate(value)
        except InvalidValueError:
            pass
    # Unknown keys of a file may hold NaN, and are saved again unchanged.
    return value if isinstance(value, float) else _float(value)


def _int_key(value: Any) -> int:
    """Validates an int or its digits, because JSON keys are strings."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else _int(value)


_SCALARS: Mapping[Any, Validator] = {
    int: Validator("an int", _int),
    float: Validator("a finite float", _float),
    bool: Validator("true or false", _bool),
    str: Validator("text", _str),
    type(None): Validator("None", _none),
    Any: Validator(f"a JSON value at most {_MAX_JSON_DEPTH} deep", _json),
}


def in_range(validator: Validator, expected: str, low: float, high: float, *, exclude_high: bool = False) -> Validator:
    """Restricts a validator of numbers to [low, high], or to [low, high) with `exclude_high`."""

    def validate(value: Any) -> Any:
        number = validator.validate(value)
        if not low <= number <= high or (exclude_high and number == high):
            raise InvalidValueError
        return number

    return Validator(expected, validate)


def _int_range(low: int, high: int, expected: str) -> Validator:
    return in_range(_SCALARS[int], f"{expected} (at most {high})", low, high)


def _float_dtype(value: Any) -> str:
    try:
        dtype = jnp.dtype(_str(value))
    except TypeError:
        raise InvalidValueError from None
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.name != value:
        raise InvalidValueError
    return value


JSON, INT = _SCALARS[Any], _SCALARS[int]
# The limits are far above published models, and low enough to reject a value before memory is allocated for it.
_INT32_MAX = 2**31 - 1
PositiveInt = Annotated[int, _int_range(1, 2**28, "a positive int")]
NonNegativeInt = Annotated[int, _int_range(0, 2**28, "0 or a positive int")]
NumEmbeddings = Annotated[int, _int_range(1, 2**28, "a positive int")]
NumLayers = Annotated[int, _int_range(1, 2**16, "a positive int")]
NumHeads = Annotated[int, _int_range(1, 2**16, "a positive int")]
NumLabels = Annotated[int, _int_range(1, 2**22, "a positive int")]
HiddenSize = Annotated[int, _int_range(1, 2**24, "a positive int")]
HiddenSizeOrZero = Annotated[int, _int_range(0, 2**24, "0 or a positive int")]
TokenId = Annotated[int, _int_range(0, _INT32_MAX, "a token id, an int")]
Index = Annotated[int, in_range(Validator("", _int_key), f"an int from 0 to {_INT32_MAX}", 0, _INT32_MAX)]
DropoutRate = Annotated[float, in_range(_SCALARS[float], "a rate in [0, 1)", 0.0, 1.0, exclude_high=True)]
LabelSmoothing = DropoutRate  # the same range
Probability = Annotated[float, in_range(_SCALARS[float], "a rate in [0, 1]", 0.0, 1.0)]
Epsilon = Probability  # of a norm; the same range
InitializerScale = Annotated[float, in_range(_SCALARS[float], "a float in [0, 1000]", 0.0, 1000.0)]
RopeTheta = Annotated[float, in_range(_SCALARS[float], "a float in [1, 1e30]", 1.0, 1e30)]
FloatDType = Annotated[str, Validator("the name of a floating type such as 'bfloat16'", _float_dtype)]


@functools.cache
def field_validators(cls: type) -> Mapping[str, Validator]:
    """The validator of each field of a dataclass, by field name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _validator(hints[field.name]) for field in dataclasses.fields(cls)}


class FieldTable(NamedTuple):
    """The fields of a config class.

    Attributes:
      defaults: default values, by field name.
      validators: by field name.
      keys: keys accepted in config.json, aliases included -> field names.
      num_layers, hidden_sizes, num_embeddings: names of the fields of these types, which bound the size of the model.
    """

    defaults: Mapping[str, Any]
    validators: Mapping[str, Validator]
    keys: Mapping[str, str]
    num_layers: tuple[str, ...]
    hidden_sizes: tuple[str, ...]
    num_embeddings: tuple[str, ...]


def field_table(cls: type, aliases: Mapping[str, str]) -> FieldTable:
    """Collects the fields of a dataclass.

    Args:
      aliases: alternative keys -> field names.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls, include_extras=True)

    def of_type(annotation: Any) -> tuple[str, ...]:
        return tuple(name for name in defaults if hints[name] in (annotation, annotation | None))

    return FieldTable(
        defaults,
        field_validators(cls),
        {name: name for name in defaults if name not in ("generation", "extra")} | dict(aliases),
        of_type(NumLayers),
        of_type(HiddenSize),
        of_type(NumEmbeddings),
    )


_as_dataclass = dataclasses.dataclass(init=False, eq=False, repr=False)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class ConfigFields:
    """Makes every subclass a dataclass, for type checkers too; these ignore fields of the decorated class itself."""

    aliases: ClassVar[Mapping[str, str]] = {}
    _field_table: ClassVar[FieldTable]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _as_dataclass(cls)
        cls._field_table = field_table(cls, {"dtype": "torch_dtype", **cls.aliases})


def _validator(annotation: Any) -> Validator:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return arguments[1]
    if origin in (Union, types.UnionType):
        return _any_of([_validator(each) for each in arguments])
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple:
        return _tuple_of(_validator(arguments[0]))
    if origin is Mapping:
        return _mapping_of(*map(_validator, arguments), int_keys=arguments[0] is not str)
    return _SCALARS[annotation]


def _any_of(options: list[Validator]) -> Validator:
    def validate(value: Any) -> Any:
        for option in options:
            try:
                return option.validate(value)
            except InvalidValueError:
                pass
        raise InvalidValueError

    return Validator(" or ".join(option.expected for option in options), validate)


def _one_of(options: Collection[str]) -> Validator:
    def validate(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise InvalidValueError
        return value

    return Validator(f"one of {', '.join(map(repr, options))}", validate)


def _tuple_of(item: Validator) -> Validator:
    def validate(value: Any) -> tuple:
        if not isinstance(value, list | tuple):
            raise InvalidValueError
        return tuple(map(item.validate, value))

    return Validator(f"a list of ({item.expected})", validate)


def _mapping_of(key: Validator, item: Validator, *, int_keys: bool) -> Validator:
    validate_key = (lambda value: key.validate(_int_key(value))) if int_keys else key.validate

    def validate(value: Any) -> FrozenDict:
        if not isinstance(value, Mapping):
            raise InvalidValueError
        found: FrozenDict = FrozenDict({validate_key(name): item.validate(each) for name, each in value.items()})
        if len(found) < len(value):  # duplicate keys, such as 1 and "1"
            raise InvalidValueError
        return found

    return Validator(f"a mapping of ({key.expected}) to ({item.expected})", validate)
