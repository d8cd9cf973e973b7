"""Output that --quiet leaves out."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def discard(*redirects: Callable[[Any], contextlib.AbstractContextManager]) -> Iterator[None]:
    """Discards what is written to the streams of `contextlib.redirect_stdout` and `redirect_stderr`."""
    with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.ExitStack() as stack:
        for redirect in redirects:
            stack.enter_context(redirect(sink))
        yield
