"""How a run ends early: one-line messages for errors that the user can fix, and no process waits for a dead one."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxmodels.training.checkpoints import DamagedCheckpoint

from .workdir import UnusableFolder

RESUME = "run the same command again to resume from the last checkpoint"
# A process that has not responded for this long counts as dead; JAX's own default is 100.
HEARTBEAT_SECONDS = 20

_DISK_FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]
# XLA's messages when the peer of a collective or barrier is gone, in whatever exception they arrive.
_CONNECTION_LOST = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|ABORTED|CANCELLED): [^\n]{,200}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that are not bugs into SystemExit with a one-line message; Ctrl-C remains what it is, with one."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"\nstopped; {RESUME}") from None
    except UnusableFolder as error:
        raise SystemExit(str(error)) from None
    except DamagedCheckpoint as error:
        if error.intact is None:
            raise SystemExit(f"{error}; --fresh starts over") from None
        raise SystemExit(f"{error}. The same command with --config.skip_damaged=True does so") from None
    except FloatingPointError as error:
        raise SystemExit(
            f"{error}. The checkpoints contain none of these steps: {RESUME}, with a higher --config.max_skipped to "
            "get past them; to continue with a different optimizer, copy the folder and edit its config.json"
        ) from None
    except Exception as error:
        # Libraries written in other languages wrap the error of the operating system in their own.
        if not any(text in str(error) for text in _DISK_FULL):
            raise
        line = " ".join(str(error).split())
        raise SystemExit(f"the disk is full: {line[:300]}; free some space, then {RESUME}") from None


@contextmanager
def one_line_input_errors() -> Iterator[None]:
    """Turn errors about settings, files and their content into SystemExit with their message, which is for the user."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise SystemExit(" ".join(str(error).split())) from None


def initialize_distributed() -> None:
    """Connect to the other processes as the cluster environment (SLURM, Open MPI, TPU pods, ...) specifies."""
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


@contextmanager
def abort_on_error() -> Iterator[None]:
    """Print the error and exit at once if one of several processes fails.

    On the regular way out, the process would wait for the others, which in turn wait for data from it.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        name = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, SystemExit | KeyboardInterrupt):
            text = f"{name}: {error}"
        elif (lost := _CONNECTION_LOST.search(" ".join(map(str, _chain(error))))) is not None:
            text = f"{name} stops: another process died or is unreachable; see its output for the reason ({lost[0]})"
        else:
            text = "".join(traceback.format_exception(error)) + f"{name} failed, and the others will stop"
        print(text, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
