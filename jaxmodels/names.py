"""What to say of a name that nothing here has: what it is called here, the nearest one, and all that there are."""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

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
    near = difflib.get_close_matches(name, [*names, *elsewhere], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{what} {name!r}; {hint}there are {', '.join(names)}"
