"""Tokens out of a running compiled loop, one step at a time.

The compiled program calls one fixed host function with a number; the callback of that number is looked up here. So
another callback compiles nothing.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import io_callback

Callback = Callable[[np.ndarray], object]

_streams: dict[int, "Stream"] = {}
_numbers = itertools.count()


class Stream:
    """One call's callback, and what it raised."""

    def __init__(self, callback: Callback):
        self.callback = callback
        self.error: BaseException | None = None

    def push(self, tokens: np.ndarray) -> bool:
        """False asks the loop to stop."""
        try:
            self.callback(tokens)
        except BaseException as error:
            self.error = error
        return self.error is None


@contextlib.contextmanager
def stream(callback: Callback | None) -> Iterator[int | None]:
    """The number under which the callback is known inside; what it raises stops the loop and is raised here."""
    if callback is None:
        yield None
        return
    number, entry = next(_numbers), Stream(callback)
    _streams[number] = entry
    try:
        yield number
    finally:
        del _streams[number]
    if entry.error is not None:
        raise entry.error


def emit(number: jax.Array, tokens: jax.Array) -> jax.Array:
    """Inside the loop: hands tokens int32 [B] to the callback; bool scalar, whether to go on."""
    return io_callback(_push, jax.ShapeDtypeStruct((), np.bool_), number, tokens, ordered=True)


def _push(number, tokens) -> np.bool_:
    return np.bool_(_streams[int(number)].push(np.asarray(tokens)))
