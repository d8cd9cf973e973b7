"""Work that one process of a multi-process run does for all."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_MAX_MESSAGE = 400  # bytes of an error message that are sent to the other processes


def on_first_process(write: Callable[[], None], gathered: Iterable[Any] = ()) -> None:
    """Calls `write` on the first process; all processes return after it has finished.

    Args:
      write: the function.
      gathered: an iterable that `write` consumes and whose steps are collective operations; the other processes
        consume it at the same time.

    Raises:
      RuntimeError: on the other processes, if `write` raised an exception on the first one, where it is raised again.
    """
    if jax.process_count() == 1:
        return write()
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            write()
        except Exception as error:
            failure = error
    for _ in gathered:  # after an error as well, because the other processes wait at each step
        pass
    text = b"" if failure is None else f"{type(failure).__name__}: {failure}".encode()[:_MAX_MESSAGE]
    padded = np.frombuffer(text.ljust(_MAX_MESSAGE, b"\0"), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes().rstrip(b"\0")
    if failure is not None:
        raise failure
    if received:
        raise RuntimeError(f"writing failed on the first process: {received.decode(errors='replace')}")
