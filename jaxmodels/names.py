"""What to say of a name that nothing here has: what it is called here, the nearest one, and all that there are."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from jaxmodels.wording import cut

MOST = 300  # characters of a list of names
_Function = TypeVar("_Function", bound=Callable[..., Any])
_NONE: Mapping[str, str] = MappingProxyType({})


def no_such(what: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] = _NONE) -> str:
    """The message for an unknown keyword, class or attribute.

    Args:
      what: whose name is looked for, as the beginning of a sentence: "load has no option".
      known: the names that there are.
      elsewhere: names that other libraries have, and what to write here.
    """
    if name in elsewhere:
        return f"{what} {name!r}: {elsewhere[name]}"
    names = sorted(known)
    name = cut(name)
    near = difflib.get_close_matches(name, [*names, *elsewhere], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if len(", ".join(names)) > MOST:  # then the nearest first
        names.sort(key=lambda known: difflib.SequenceMatcher(None, name, known).ratio(), reverse=True)
    return f"{what} {name!r}; {hint}there are {cut(', '.join(names), MOST)}"


def knows_its_names(elsewhere: Mapping[str, str] = _NONE) -> Callable[[_Function], _Function]:
    """Decorator of a public function: keywords that it does not have are refused with what to write (see `no_such`)."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **options):
            for name in options:
                if name not in signature.parameters:
                    raise TypeError(
                        no_such(f"{function.__name__} has no option", name, signature.parameters, elsewhere)
                    )
            try:
                signature.bind(*args, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}{signature}: {error}") from None
            return function(*args, **options)

        return call  # type: ignore[return-value]  # the same signature

    return decorate
