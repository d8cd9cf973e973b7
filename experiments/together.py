"""Several processes that are one run: how they meet, and that none waits for one that has died."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

# A process that has said nothing for so long is taken for dead; JAX's own default is 100.
HEARTBEAT_SECONDS = 20
# What XLA says of a collective or a barrier whose other side is gone, in whatever exception it comes.
_LOST = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|CANCELLED): [^\n]{,200}")


def join() -> None:
    """Meets the other processes, as the cluster says (SLURM, Open MPI, TPU pods, ...)."""
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


@contextmanager
def ends_alone() -> Iterator[None]:
    """Where one of several processes fails, it ends at once, and says why.

    Leaving by the usual way, it would wait for the others, and these for what it was to send them.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        me = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, SystemExit):
            text = f"{me}: {error}"
        elif (lost := _LOST.search(" ".join(map(str, _chain(error))))) is not None:
            text = f"{me} stops, since another has died or cannot be reached; that one's output says why ({lost[0]})"
        else:
            text = "".join(traceback.format_exception(error)) + f"{me} failed, and the others will stop"
        print(text, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
