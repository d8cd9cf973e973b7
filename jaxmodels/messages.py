"""Helpers for error messages: short representations of values, and hints for unknown names."""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

MAX_VALUE = 120  # characters of a value
MAX_NAMES = 300  # characters of a list of names
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NONE: Mapping[str, str] = MappingProxyType({})


class _ShortRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, MAX_VALUE, MAX_VALUE, 40

    def repr_int(self, value: int, level: int) -> str:
        # Python does not convert ints of more than 4300 digits to strings.
        return super().repr_int(value, level) if value.bit_length() < 1024 else f"a number of {value.bit_length()} bits"

    def repr_FrozenDict(self, value: Any, level: int) -> str:  # reprlib dispatches on type names
        return self.repr_dict(value, level)


_short_repr = _ShortRepr()


def brief(value: object) -> str:
    """Returns a one-line repr of at most 120 characters, however large, deep or cyclic the value is.

    The middle of a long repr is left out; arrays are represented by their shape.
    """
    if getattr(value, "ndim", 0):  # also arrays on a device and tracers
        return f"an array {value.shape}"  # type: ignore[attr-defined]  # object has no `shape`
    return truncate(" ".join(map(str.strip, _short_repr.repr(value).splitlines())))


def truncate(text: str, length: int = MAX_VALUE) -> str:
    """Shortens a string to `length` characters, of which the last three are dots."""
    return text if len(text) <= length else text[: length - 3] + "..."


class Unsupported(NamedTuple):
    """An option of another library that does not exist here.

    Attributes:
      instead: what to write instead, for the error message.
      neutral: values that request what happens here anyway; these are accepted.
    """

    instead: str
    neutral: tuple[Any, ...] = (None,)

    def is_neutral(self, value: Any) -> bool:
        """Whether the value is one of `neutral`, of the same type: True does not equal 1."""
        value = value.item() if isinstance(value, np.generic) else value
        return any(type(value) is type(each) and value == each for each in self.neutral)


def reject_unsupported(
    what: str,
    options: Mapping[str, Any],
    known: Collection[str],
    unsupported: Mapping[str, Unsupported],
    error: type[Exception] = TypeError,
) -> None:
    """Raises `error` for an option that is unknown, or unsupported with a value that is not neutral.

    Args:
      what: beginning of the message, such as "generate has no option".
      options: the options of a call.
      known: names of options that exist.
      unsupported: options of other libraries, by name.
      error: type of the exception.
    """
    for name, value in options.items():
        if name in known:
            continue
        if name not in unsupported:
            raise error(unknown_name(what, name, known, {other: each.instead for other, each in unsupported.items()}))
        if not unsupported[name].is_neutral(value):
            raise error(f"{what} {name!r} (got {brief(value)}): {unsupported[name].instead}")


def unknown_name(what: str, name: str, known: Iterable[str], unsupported: Mapping[str, str] = _NONE) -> str:
    """Returns the message for an unknown keyword, class or attribute.

    Args:
      what: beginning of the message, such as "load has no option".
      name: the unknown name.
      known: the existing names.
      unsupported: names of other libraries -> what to write instead.
    """
    if name in unsupported:
        return f"{what} {name!r}: {unsupported[name]}"
    names = sorted(known)
    name = truncate(name)
    close = difflib.get_close_matches(name, [*names, *unsupported], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(", ".join(names)) > MAX_NAMES:  # list the most similar names first
        names.sort(key=lambda known: difflib.SequenceMatcher(None, name, known).ratio(), reverse=True)
    return f"{what} {name!r}; {hint}there are {truncate(', '.join(names), MAX_NAMES)}"


def reject_unknown_keywords(unsupported: Mapping[str, str] = _NONE) -> Callable[[_Function], _Function]:
    """Decorates a public function so that unknown keywords raise a TypeError with a hint (see `unknown_name`)."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in signature.parameters:
                    raise TypeError(
                        unknown_name(f"{function.__name__} has no option", name, signature.parameters, unsupported)
                    )
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}{signature}: {error}") from None
            return function(*args, **options)

        return call  # type: ignore[return-value]  # functools.wraps returns a wrapper with the same signature

    return decorate
