"""The caller's functions, called from a running compiled loop.

The compiled program calls one fixed host function with a number, under which the caller's is looked up here. So another
function compiles nothing.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from jaxmodels.messages import brief

# New ids of a step, numpy int32 [B].
Streamer = Callable[[np.ndarray], object]
# (example, ids so far) -> ids that may come next.
PrefixFunction = Callable[[int, np.ndarray], Any]

_entries: dict[int, "Entry"] = {}
_numbers = itertools.count()


class Entry:
    """A function of the caller, and what it raised."""

    def __init__(self, function: Callable):
        self.function = function
        self.error: BaseException | None = None


@contextlib.contextmanager
def registered(function: Callable | None) -> Iterator[np.int32 | None]:
    """The number under which the function is known inside; what it raises ends the loop and is raised here."""
    if function is None:
        yield None
        return
    number, entry = next(_numbers), Entry(function)
    _entries[number] = entry
    try:
        yield np.int32(number)
    except Exception:
        if entry.error is None:
            raise
    finally:
        del _entries[number]
    if entry.error is not None:
        raise entry.error


def emit(number: jax.Array, tokens: jax.Array) -> jax.Array:
    """Inside the loop: hands tokens int32 [B] to the streamer; bool scalar, whether to go on."""
    return io_callback(_push, jax.ShapeDtypeStruct((), np.bool_), number, tokens, ordered=True)


def _push(number, tokens) -> np.bool_:
    entry = _entries[int(number)]
    try:
        entry.function(np.asarray(tokens))
    except BaseException as error:
        entry.error = error
    return np.bool_(entry.error is None)


def allowed_tokens(number, examples, ids, start, end, *, per_example: int, vocabulary: int) -> np.ndarray:
    """bool [N,V]: what the prefix function allows after each row; all after rows that fill the bucket.

    Raises:
      ValueError: it allows nothing, or an id outside the vocabulary.
    """
    entry, ids = _entries[int(number)], np.asarray(ids)
    allowed = np.ones((ids.shape[0], vocabulary), bool)
    try:
        for row in range(int(examples) * per_example):
            found = entry.function(row // per_example, ids[row, int(start) : int(end)])
            tokens = np.asarray(found if hasattr(found, "dtype") else list(found))
            fits = tokens.size > 0 and np.issubdtype(tokens.dtype, np.integer)
            if not fits or tokens.min() < 0 or tokens.max() >= vocabulary:
                raise ValueError(
                    f"prefix_allowed_tokens_fn gives at least one id of the {vocabulary} for every prefix; "
                    f"it gave {brief(found)} for example {row // per_example}"
                )
            allowed[row] = False
            allowed[row, tokens] = True
    except BaseException as error:
        entry.error = error
        raise
    return allowed
