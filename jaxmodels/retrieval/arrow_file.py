"""Arrow data in a file, memory-mapped: nothing of it is read before pyarrow has checked where everything lies."""

import mmap
from types import ModuleType

from jaxmodels.tensor_files.opened import OpenedFile


def pyarrow() -> ModuleType:
    """Raises ImportError with what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("passages are kept by pyarrow: pip install 'jaxmodels[retrieval]'") from error
    return pyarrow


def mapped(file: OpenedFile):
    """The file as a buffer of pyarrow's. Raises ArrowInvalid for an empty one, which cannot be mapped."""
    arrow = pyarrow()
    if not file.size:
        raise arrow.ArrowInvalid("an empty file")
    return arrow.py_buffer(mmap.mmap(file.descriptor, file.size, access=mmap.ACCESS_READ))


def checked_texts(column):
    """A column of texts of which every one is there: offsets within the data, in order, and UTF-8.

    Raises:
      ArrowInvalid: it is not so.
    """
    arrow = pyarrow()
    column.validate(full=True)
    if column.null_count:
        raise arrow.ArrowInvalid(f"{column.null_count} texts are missing")
    return column
