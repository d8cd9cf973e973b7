"""How a run ends early: what its user can mend is one line and an exit status."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from jaxmodels.training.checkpoints import DamagedCheckpoint

AGAIN = "the same command goes on from the last checkpoint"
_FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]


@contextmanager
def in_words() -> Iterator[None]:
    """Turns what is no fault of the program into SystemExit with one line."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped; {AGAIN}") from None
    except DamagedCheckpoint as error:
        if error.sound is None:
            raise SystemExit(f"{error}; --fresh starts over") from None
        raise SystemExit(f"{error}. The same command with --config.skip_damaged=True does so") from None
    except FloatingPointError as error:
        raise SystemExit(
            f"{error}. Nothing of it is in the checkpoints: {AGAIN}, with a higher --config.max_skipped beyond these "
            "steps; a copy of the folder, with another optimizer in its config.json, goes on from there with that one"
        ) from None
    except Exception as error:
        # Libraries that write in other languages wrap the system's error in their own.
        if not any(text in str(error) for text in _FULL):
            raise
        line = " ".join(str(error).split())
        raise SystemExit(f"the disk is full: {line[:300]}; make room, and {AGAIN}") from None
