"""What to say of a name that nothing here has: what it is called here, the nearest one, and all that there are."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxmodels.wording import brief, cut

MOST = 300  # characters of a list of names
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NONE: Mapping[str, str] = MappingProxyType({})


class Foreign(NamedTuple):
    """An option of another library: what to write here, and values of it that ask for what is so here anyway."""

    instead: str
    neutral: tuple[Any, ...] = (None,)

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether the value is neutral; True is not 1 here."""
        value = value.item() if isinstance(value, np.generic) else value
        return any(type(value) is type(one) and value == one for one in self.neutral)


def refuse_foreign(
    what: str,
    options: Mapping[str, Any],
    known: Collection[str],
    foreign: Mapping[str, Foreign],
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
            raise kind(no_such(what, name, known, {other: found.instead for other, found in foreign.items()}))
        if not foreign[name].asks_for_nothing(value):
            raise kind(f"{what} {name!r} (got {brief(value)}): {foreign[name].instead}")


def no_such(what: str, name: str, known: Iterable[str], foreign: Mapping[str, str] = _NONE) -> str:
    """The message for an unknown keyword, class or attribute.

    Args:
      what: whose name is looked for, as the beginning of a sentence: "load has no option".
      known: the names that there are.
      foreign: names that other libraries have, and what to write here.
    """
    if name in foreign:
        return f"{what} {name!r}: {foreign[name]}"
    names = sorted(known)
    name = cut(name)
    near = difflib.get_close_matches(name, [*names, *foreign], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if len(", ".join(names)) > MOST:  # then the nearest first
        names.sort(key=lambda known: difflib.SequenceMatcher(None, name, known).ratio(), reverse=True)
    return f"{what} {name!r}; {hint}there are {cut(', '.join(names), MOST)}"


def knows_its_names(foreign: Mapping[str, str] = _NONE) -> Callable[[_Function], _Function]:
    """Decorator of a public function: keywords that it does not have are refused with what to write (see `no_such`)."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **options):
            for name in options:
                if name not in signature.parameters:
                    raise TypeError(no_such(f"{function.__name__} has no option", name, signature.parameters, foreign))
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}{signature}: {error}") from None
            return function(*args, **options)

        return call  # type: ignore[return-value]  # the same signature

    return decorate
