"""What to say of a name that nothing here has: what it is called here, the nearest one, and all that there are."""

import difflib
import functools
import inspect
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

LONGEST = 120


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, LONGEST, LONGEST, 40

    def repr_int(self, value, level):
        # Python refuses to spell numbers of more than 4300 digits
        return super().repr_int(value, level) if value.bit_length() < 1024 else f"a number of {value.bit_length()} bits"

    def repr_FrozenDict(self, value, level):  # reprlib goes by the names of types
        return self.repr_dict(value, level)


_short = _Short()


def brief(value: object) -> str:
    """The repr of a value in one line, its middle left out where it is long, an array by its shape; at most 120
    characters."""
    if getattr(value, "ndim", 0):  # also one on a device, or traced
        return f"an array {value.shape}"  # type: ignore[attr-defined]
    return truncate(" ".join(map(str.strip, _short.repr(value).splitlines())))


def truncate(text: str, longest: int = LONGEST) -> str:
    """A text, its end left out where it is long."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


MOST = 300  # characters of a list of names
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NONE: Mapping[str, str] = MappingProxyType({})


class Unsupported(NamedTuple):
    """An option of another library: what to write here, and values of it that ask for what is so here anyway."""

    instead: str
    neutral: tuple[Any, ...] = (None,)

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether the value is neutral; True is not 1 here."""
        value = value.item() if isinstance(value, np.generic) else value
        return any(type(value) is type(one) and value == one for one in self.neutral)


def reject_unsupported(
    what: str,
    options: Mapping[str, Any],
    known: Collection[str],
    foreign: Mapping[str, Unsupported],
    kind: type[Exception] = TypeError,
) -> None:
    """Raises where an option is of another library and asks for something, or is of none.

    Args:
      what: whose option, as the beginning of a sentence: "generate has no option". kind: of the exception.
      known: the names that are options; these pass.
    """
    for name, value in options.items():
        if name in known:
            continue
        if name not in foreign:
            raise kind(unknown_name(what, name, known, {other: found.instead for other, found in foreign.items()}))
        if not foreign[name].asks_for_nothing(value):
            raise kind(f"{what} {name!r} (got {brief(value)}): {foreign[name].instead}")


def unknown_name(what: str, name: str, known: Iterable[str], foreign: Mapping[str, str] = _NONE) -> str:
    """The message for an unknown keyword, class or attribute.

    Args:
      what: whose name is looked for, as the beginning of a sentence: "load has no option".
      known: the names that there are.
      foreign: names that other libraries have, and what to write here.
    """
    if name in foreign:
        return f"{what} {name!r}: {foreign[name]}"
    names = sorted(known)
    name = truncate(name)
    near = difflib.get_close_matches(name, [*names, *foreign], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if len(", ".join(names)) > MOST:  # then the nearest first
        names.sort(key=lambda known: difflib.SequenceMatcher(None, name, known).ratio(), reverse=True)
    return f"{what} {name!r}; {hint}there are {truncate(', '.join(names), MOST)}"


def reject_unknown_keywords(foreign: Mapping[str, str] = _NONE) -> Callable[[_Function], _Function]:
    """Decorator of a public function: keywords that it does not have are refused with what to write (see `no_such`)."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **options):
            for name in options:
                if name not in signature.parameters:
                    raise TypeError(
                        unknown_name(f"{function.__name__} has no option", name, signature.parameters, foreign)
                    )
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}{signature}: {error}") from None
            return function(*args, **options)

        return call  # type: ignore[return-value]  # the same signature

    return decorate
