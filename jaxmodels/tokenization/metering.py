"""How much a chat template may do: steps are counted, and so is the size of every value before it is used.

Counting and no clock, so that what is refused is refused on every machine; no process and no signal, so that it holds
in threads and notebooks, too.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextvars import ContextVar

# About a second; a conversation of 100 messages takes a few thousand.
STEPS = 500_000
# For each step that it takes to look at the conversation once.
STEPS_PER_SIZE = 100
# Characters that are read or written in the time of a step.
CHARACTERS = 32
LONGEST_TEXT = 1_000_000
LARGEST_NUMBER = 100_000  # of those that say how often or how wide
LARGEST_CONVERSATION = 20_000_000
BITS = 1024
DEPTH = 100
LARGE_WIDTH = re.compile(r"\d{4,}|\*")


class LimitError(Exception):
    """A template that wants more than it may have."""


class Meter:
    """What one rendering has left.

    given: what it works on; the limits grow with its size.
    """

    def __init__(self, given: object):
        self.left, self.longest, self.depth = LARGEST_CONVERSATION, LARGEST_CONVERSATION * CHARACTERS, 0
        self.measure(given, text=True)
        size = LARGEST_CONVERSATION - self.left
        self.allowed = self.left = STEPS + STEPS_PER_SIZE * size
        self.longest = LONGEST_TEXT + 10 * CHARACTERS * size

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise LimitError("it takes too many steps for a conversation of this size")

    def touch(self, value: object) -> None:
        """Pays for going once through a text or the items of a container, not for what these hold."""
        if isinstance(value, str | bytes):
            self.spend(1 + len(value) // CHARACTERS)
        else:
            self.spend(1 + (len(value) if isinstance(value, _CONTAINERS) else 0))

    def measure(self, value: object, *, text: bool = False) -> None:
        """Pays for a value with all that is in it, as often as it is in it; text: and for reading its texts."""
        pending: list = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str | bytes):
                if len(item) > self.longest:
                    raise LimitError(f"it makes a text of more than {self.longest} characters")
                self.spend(1 + (len(item) // CHARACTERS if text else 0))
            elif isinstance(item, _CONTAINERS):
                self.touch(item)
                if isinstance(item, Mapping):
                    pending += item.keys()
                    pending += item.values()
                elif not isinstance(item, range):
                    pending += item
            else:
                if isinstance(item, int) and item.bit_length() > BITS:
                    raise LimitError(f"it makes a number of more than {BITS} bits")
                self.spend(1)

    def made(self, value):
        """A value that was made anew, paid for; what yields is paid for when it does."""
        if isinstance(value, Iterator):
            return self._counted(value)
        self.measure(value, text=isinstance(value, str))
        return value

    def _counted(self, values: Iterator) -> Iterator:
        for value in values:
            self.measure(value)
            yield value

    def nest(self, call: Callable):
        """The call's value, in which further calls may be nested."""
        self.depth += 1
        if self.depth > DEPTH:
            raise LimitError(f"it nests more than {DEPTH} calls")
        try:
            return call()
        finally:
            self.depth -= 1

    def number(self, value: object) -> None:
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise LimitError(f"it asks for a width or a count above {LARGEST_NUMBER}")


METER: ContextVar[Meter] = ContextVar("what the template that is running has left")
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
_CONTAINERS = (*BUILTIN_CONTAINERS, Mapping, Set)


def json_text(value, indent: int | str | None = None) -> str:
    """JSON without escapes. Jinja's own filter escapes HTML, which would put \\u0027 into prompts."""
    meter = METER.get()
    if (indent if isinstance(indent, int) else len(indent or "")) > 100:
        raise LimitError("it indents JSON by more than 100 characters")
    parts = []
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        meter.touch(part)
        parts.append(part)
    return "".join(parts)


def before_operator(meter: Meter, operator: str, left: object, right: object) -> None:
    """Pays for an operator whose value may be much larger than what it is given."""
    for value in (left, right):
        meter.touch(value)
        if isinstance(value, int) and value.bit_length() > BITS:
            raise LimitError(f"it computes with a number of more than {BITS} bits")
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(many, str | bytes):
                meter.spend(len(many) * max(times, 0) // CHARACTERS)
            elif isinstance(times, int) and isinstance(many, list | tuple):
                meter.spend(len(many) * max(times, 0))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS:
        raise LimitError(f"it makes a number of more than {BITS} bits")
    elif operator == "%" and isinstance(left, str | bytes):
        before_format(meter, str(left), right)


def before_format(meter: Meter, text: str, *values: object) -> None:
    """Pays for putting values into a text with places such as %s or {}."""
    if LARGE_WIDTH.search(text) or re.search(r"\{[^}]*\{", text.replace("{{", "")):
        raise LimitError("it formats with a width of more than 3 digits, or with one that is a value")
    before = meter.left
    meter.measure(values, text=True)
    meter.spend((text.count("%") + text.count("{")) * (1000 // CHARACTERS + before - meter.left))


def before_join(meter: Meter, parts: list, separator: str) -> None:
    meter.measure(parts, text=True)
    meter.spend(len(parts) * len(str(separator)) // CHARACTERS)


def before_replace(meter: Meter, text: str, old: str, new: str) -> None:
    meter.spend(text.count(str(old)) * len(str(new)) // CHARACTERS)


def before_search(meter: Meter, text: str, *sought: object) -> None:
    """From the right, and for one of many characters, Python compares each with each."""
    meter.spend(len(text) * sum(len(each) for each in sought if isinstance(each, str)) // 1024)


def listed(values: Iterable) -> Iterable:
    """What yields, as a list, so that it can be looked at twice."""
    return list(values) if isinstance(values, Iterator) else values
