"""Values from files and calls in error messages: short, however large, deep or cyclic they are."""

import reprlib

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
    return cut(" ".join(map(str.strip, _short.repr(value).splitlines())))


def cut(text: str, longest: int = LONGEST) -> str:
    """A text, its end left out where it is long."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
