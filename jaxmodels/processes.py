"""What one process does for all of them."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.experimental import multihost_utils

_TOLD = 400  # bytes of an error that the other processes hear of


def on_first_process(write: Callable[[], None], gathered: Iterable = ()) -> None:
    """Calls `write` on the first process; all processes go on when it is done, or fail when it has failed.

    Args:
      gathered: what `write` goes through and all processes have to take part in, step by step.

    Raises:
      RuntimeError: on the other processes, where `write` has raised on the first one, where that is raised.
    """
    if jax.process_count() == 1:
        return write()
    failed: Exception | None = None
    if jax.process_index() == 0:
        try:
            write()
        except Exception as error:
            failed = error
    for _ in gathered:  # after an error, too, since the others wait for this process at each step
        pass
    text = b"" if failed is None else f"{type(failed).__name__}: {failed}".encode()[:_TOLD]
    padded = np.frombuffer(text.ljust(_TOLD, b"\0"), np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes().rstrip(b"\0")
    if failed is not None:
        raise failed
    if told:
        raise RuntimeError(f"the first process has failed to write: {told.decode(errors='replace')}")
