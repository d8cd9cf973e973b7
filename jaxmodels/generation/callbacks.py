"""Functions of the caller that a compiled loop calls on the host: the streamer and `prefix_allowed_tokens_fn`.

The compiled program calls a fixed host function with a number, which identifies the caller's function here, so that
another function does not recompile.
"""

import itertools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import io_callback

from jaxmodels.messages import brief

# Receives the new ids of a step, numpy int32 [B].
Streamer = Callable[[np.ndarray], object]
# (example, ids so far) -> ids that may come next.
PrefixFunction = Callable[[int, np.ndarray], Any]

_active: dict[int, "HostCallback"] = {}
_numbers = itertools.count()


class HostCallback:
    """A function of the caller; a context manager within which compiled loops may call it.

    An exception of the function ends the loop and is raised when the context is left.

    Attributes:
      number: int32 scalar that identifies the function inside the compiled program.
    """

    def __init__(self, function: Callable[..., Any]):
        self.number = np.int32(next(_numbers))
        self.function = function
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        _active[int(self.number)] = self
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del _active[int(self.number)]
        if self.error is not None and (error is None or isinstance(error, Exception)):
            raise self.error


def emit(number: jax.Array, tokens: jax.Array) -> jax.Array:
    """Passes tokens int32 [B] to the streamer from inside the loop.

    Returns:
      bool scalar, whether to continue.
    """
    return io_callback(_call_streamer, jax.ShapeDtypeStruct((), np.bool_), number, tokens, ordered=True)


def _call_streamer(number: jax.Array, tokens: jax.Array) -> np.bool_:
    callback = _active[int(number)]
    try:
        callback.function(np.asarray(tokens))
    except BaseException as error:
        callback.error = error
    return np.bool_(callback.error is None)


def allowed_tokens(
    number: jax.Array,
    num_real: jax.Array,
    ids: jax.Array,
    start: jax.Array,
    end: jax.Array,
    *,
    beams: int,
    vocab_size: int,
) -> np.ndarray:
    """Calls the prefix function for every sequence, on the host.

    Args:
      num_real: examples; sequences of further ones only pad the batch, and all tokens are allowed there.
      ids: int32 [N,L], the sequences in columns start .. end-1.
      beams: sequences per example.

    Returns:
      bool [N,V].

    Raises:
      ValueError: the function returns no id, or one outside the vocabulary.
    """
    callback, sequences = _active[int(number)], np.asarray(ids)
    allowed = np.ones((len(sequences), vocab_size), bool)
    try:
        for index in range(int(num_real) * beams):
            found = callback.function(index // beams, sequences[index, int(start) : int(end)])
            tokens = np.asarray(found if hasattr(found, "dtype") else list(found))
            valid = tokens.size > 0 and np.issubdtype(tokens.dtype, np.integer)
            if not valid or tokens.min() < 0 or tokens.max() >= vocab_size:
                raise ValueError(
                    f"prefix_allowed_tokens_fn must return at least one id of the {vocab_size} for every prefix; "
                    f"got {brief(found)} for example {index // beams}"
                )
            allowed[index] = False
            allowed[index, tokens] = True
    except BaseException as error:
        callback.error = error
        raise
    return allowed
