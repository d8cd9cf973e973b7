"""The tokenizers library, whose errors are bare exceptions and panics."""

import contextlib
from collections.abc import Iterator

from jaxmodels.wording import cut


@contextlib.contextmanager
def errors(message: str) -> Iterator[None]:
    """Whatever the library raises in this block is a ValueError that begins with `message`."""
    try:
        yield
    except BaseException as error:  # a panic is no Exception
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        raise ValueError(f"{message}: {cut(str(error), 250)}") from None
