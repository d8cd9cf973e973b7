"""Limits of chat templates: every step is counted, and so is the size of every value before it is used.

Steps are counted instead of time, so that the same templates are refused on every machine, and neither processes nor
signals are used, so that the limits hold in threads and notebooks.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from typing import Any, TypeVar

# About a second; a conversation of 100 messages takes a few thousand.
STEPS = 500_000
# Additional steps for each step that reading the conversation once takes.
STEPS_PER_SIZE = 100
# Characters that are read or written in the time of one step.
CHARACTERS = 32
MAX_TEXT = 1_000_000
MAX_COUNT = 100_000  # largest repetition count or width
MAX_CONVERSATION = 20_000_000
MAX_BITS = 1024
MAX_DEPTH = 100
LARGE_WIDTH = re.compile(r"\d{4,}|\*")

# Slow for long texts, and of no use to a prompt.
FORBIDDEN_FILTERS = {"filesizeformat", "pprint", "striptags", "urlize", "wordwrap", "xmlattr"}
FORBIDDEN_METHODS = {"encode", "expandtabs", "maketrans", "striptags", "translate", "unescape"}
CONTAINER_METHODS = {"copy", "count", "get", "index", "items", "keys", "values"}
SEARCH_METHODS = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}
# Filters and tests that traverse nested values: they print, sort or compare them.
TRAVERSING_FILTERS = {"dictsort", "e", "escape", "forceescape", "format", "groupby", "join", "max", "min", "sort"}
TRAVERSING_FILTERS |= {"string", "tojson", "unique", "urlencode"}
TRAVERSING_TESTS = {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le"}
TRAVERSING_TESTS |= {"lessthan", "lt", "ne"}
# Filters that iterate over a text in Python instead of C.
SLOW_FILTERS = {"list", "max", "min", "sort", "title", "unique", "wordcount"}
_FILTER_PARAMETERS = {
    "join": ("d", "attribute"),
    "replace": ("old", "new", "count"),
    "trim": ("chars",),
    "indent": ("width", "first", "blank"),
    "sum": ("attribute", "start"),
}

BUILTIN_CONTAINERS: tuple[type, ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    deque,
    range,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_CONTAINERS: Any = (*BUILTIN_CONTAINERS, Mapping, Set)
_T = TypeVar("_T")


class LimitError(Exception):
    """A template exceeds its limits."""


class Meter:
    """Budget of one rendering.

    Args:
      inputs: the variables of the template; the limits grow with their size.
    """

    def __init__(self, inputs: object):
        self.left, self.max_text, self.depth = MAX_CONVERSATION, MAX_CONVERSATION * CHARACTERS, 0
        self.charge_nested(inputs, read=True)
        size = MAX_CONVERSATION - self.left
        self.left = STEPS + STEPS_PER_SIZE * size
        self.max_text = MAX_TEXT + 10 * CHARACTERS * size

    def spend(self, steps: int) -> None:
        """Subtract steps from the budget."""
        self.left -= steps
        if self.left < 0:
            raise LimitError("it takes too many steps for a conversation of this size")

    def charge(self, value: Any) -> None:
        """Charge for one pass over a text or the items of a container, excluding nested values."""
        if isinstance(value, str | bytes):
            self.spend(1 + len(value) // CHARACTERS)
        else:
            self.spend(1 + (len(value) if isinstance(value, _CONTAINERS) else 0))

    def charge_nested(self, value: object, *, read: bool = False) -> None:
        """Charge for a value and all values nested in it, each as often as it occurs.

        Args:
          value: the value.
          read: also charge for reading the texts.
        """
        pending: list[Any] = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str | bytes):
                if len(item) > self.max_text:
                    raise LimitError(f"it makes a text of more than {self.max_text} characters")
                self.spend(1 + (len(item) // CHARACTERS if read else 0))
            elif isinstance(item, _CONTAINERS):
                self.charge(item)
                if isinstance(item, Mapping):
                    pending += [*item.keys(), *item.values()]
                elif not isinstance(item, range):
                    pending += item
            else:
                if isinstance(item, int) and item.bit_length() > MAX_BITS:
                    raise LimitError(f"it makes a number of more than {MAX_BITS} bits")
                self.spend(1)

    def charge_created(self, value: _T) -> _T:
        """Charge for a new value and return it; an iterator is charged as it yields."""
        if isinstance(value, Iterator):
            return self._charged_iterator(value)  # type: ignore[return-value]  # an iterator of the same items
        self.charge_nested(value, read=isinstance(value, str))
        return value

    def _charged_iterator(self, values: Iterator[_T]) -> Iterator[_T]:
        for value in values:
            self.charge_nested(value)
            yield value

    def nest(self, call: Callable[[], _T]) -> _T:
        """Return the value of a call that may contain further calls, up to a maximum depth."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimitError(f"it nests more than {MAX_DEPTH} calls")
        try:
            return call()
        finally:
            self.depth -= 1

    def check_count(self, value: object) -> None:
        """Raise LimitError for a number that is too large for a repetition count or width."""
        if isinstance(value, int) and abs(value) > MAX_COUNT:
            raise LimitError(f"it requests a width or a count above {MAX_COUNT}")


METER: ContextVar[Meter] = ContextVar("meter of the template that is being rendered")


def json_text(value: object, indent: int | str | None = None) -> str:
    r"""Serialize to JSON. Jinja's filter would escape HTML, which would put \u0027 into prompts."""
    meter = METER.get()
    if (indent if isinstance(indent, int) else len(indent or "")) > 100:
        raise LimitError("it indents JSON by more than 100 characters")
    parts = []
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        meter.charge(part)
        parts.append(part)
    return "".join(parts)


def charge_arguments(meter: Meter, values: Iterable[object], nested: bool) -> None:
    """Charge for the arguments of a call, including nested values if the call traverses them."""
    for value in values:
        if nested:
            meter.charge_nested(value, read=True)
        else:
            meter.charge(value)


def charge_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Charge in advance for an operator whose result may be much larger than its operands."""
    for value in (left, right):
        meter.charge(value)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise LimitError(f"it computes with a number of more than {MAX_BITS} bits")
    if operator == "*":
        for repeated, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(repeated, str | bytes):
                meter.spend(len(repeated) * max(times, 0) // CHARACTERS)
            elif isinstance(times, int) and isinstance(repeated, list | tuple):
                meter.spend(len(repeated) * max(times, 0))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * right > MAX_BITS:
            raise LimitError(f"it makes a number of more than {MAX_BITS} bits")
    elif operator == "%" and isinstance(left, str | bytes):
        _charge_format(meter, str(left), right)


def charge_filter(meter: Meter, name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Charge in advance for a filter whose result may be much larger than its arguments."""
    for number in (*args, *kwargs.values()):
        meter.check_count(number)
    if name in SLOW_FILTERS and isinstance(value, str):
        meter.spend(len(value) // 4)
    named = dict(zip(_FILTER_PARAMETERS.get(name, ()), args, strict=False)) | dict(kwargs)
    if name == "format":
        _charge_format(meter, str(value), *args, *kwargs.values())
    elif name == "join":
        _charge_join(meter, list(value), named.get("d", ""))
    elif name == "replace":
        _charge_replace(meter, str(value), named.get("old", ""), named.get("new", ""))
    elif name == "trim":
        _charge_search(meter, str(value), named.get("chars"))
    elif name == "indent":
        width = named.get("width", 4)
        lines = str(value).count("\n") + 1
        meter.spend(lines * (len(width) if isinstance(width, str) else int(width)) // CHARACTERS)
    elif name == "sum" and not isinstance(named.get("start", 0), int | float):
        raise LimitError("it sums values that are not numbers")


def method_of_builtin(function: object) -> tuple[object, str] | None:
    """Return the owner and name of a method of a text, number or container; None for other functions."""
    method = function if isinstance(function, type) else getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    types = (str, bytes, int, float, complex, type, *BUILTIN_CONTAINERS)
    return (owner, getattr(method, "__name__", "")) if isinstance(owner, types) else None


def charge_method(
    meter: Meter, owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Charge in advance for a method of a builtin type, and return its arguments with iterators made lists."""
    for number in (*args, *kwargs.values()):
        meter.check_count(number)
    if isinstance(owner, str) and name not in FORBIDDEN_METHODS:
        meter.charge(owner)
        if name in ("format", "format_map"):
            _charge_format(meter, owner, *args, *kwargs.values())
        elif name == "join" and args:
            args = (to_list(args[0]), *args[1:])
            _charge_join(meter, list(args[0]), owner)
        elif name == "replace" and len(args) > 1:
            _charge_replace(meter, owner, *args[:2])
        elif name in SEARCH_METHODS:
            _charge_search(meter, owner, *args, *kwargs.values())
    elif isinstance(owner, BUILTIN_CONTAINERS) and name in CONTAINER_METHODS:
        meter.charge_nested(args, read=True)
        if name in ("count", "index"):
            meter.charge_nested(owner, read=True)
    else:
        raise LimitError(f"the method {name} of a {type(owner).__name__} is not available to chat templates")
    return args


def to_list(values: Any) -> Any:
    """Convert an iterator to a list, so that it can be traversed twice; return other values unchanged."""
    return list(values) if isinstance(values, Iterator) else values


def _charge_format(meter: Meter, text: str, *values: object) -> None:
    if LARGE_WIDTH.search(text) or re.search(r"\{[^}]*\{", text.replace("{{", "")):
        raise LimitError("it formats with a width of more than 3 digits, or with a width that is a value")
    before = meter.left
    meter.charge_nested(values, read=True)
    meter.spend((text.count("%") + text.count("{")) * (1000 // CHARACTERS + before - meter.left))


def _charge_join(meter: Meter, parts: Sequence[object], separator: object) -> None:
    meter.charge_nested(parts, read=True)
    meter.spend(len(parts) * len(str(separator)) // CHARACTERS)


def _charge_replace(meter: Meter, text: str, old: object, new: object) -> None:
    meter.spend(text.count(str(old)) * len(str(new)) // CHARACTERS)


def _charge_search(meter: Meter, text: str, *patterns: object) -> None:
    # from the right, and for one of several characters, Python's search is quadratic
    meter.spend(len(text) * sum(len(pattern) for pattern in patterns if isinstance(pattern, str)) // 1024)
