"""Arrow data in a file, memory-mapped: nothing of it is read before pyarrow has checked where everything lies."""

import mmap
import struct
from types import ModuleType

from jaxmodels.tensor_files.file_io import OpenedFile


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


def opened_stream(data):
    """A reader of a stream of plain batches: what is mapped is all the memory that they take.

    Raises:
      ArrowInvalid: no stream, or one with compressed batches, of which a few bytes may stand for any amount of memory.
    """
    arrow = pyarrow()
    for message in arrow.ipc.MessageReader.open_stream(data):
        if message.type not in ("schema", "record batch"):
            raise arrow.ArrowInvalid(f"a {message.type}, besides the schema and batches")
        if message.type == "record batch" and _is_compressed(message.metadata):
            raise arrow.ArrowInvalid("compressed batches; write it without compression")
    return arrow.ipc.open_stream(data)


def _is_compressed(metadata) -> bool:
    """Whether a message's batch says how it is compressed, which pyarrow does not tell before it decodes it.

    Source of the layout: format/Message.fbs of Apache Arrow; flatbuffers' tables.
    """
    header, compression = 2, 3  # numbers of fields

    def field(table: int, number: int) -> int | None:
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        [size] = struct.unpack_from("<H", metadata, fields)
        place = 4 + 2 * number
        [offset] = struct.unpack_from("<H", metadata, fields + place) if place < size else [0]
        return table + offset if offset else None

    try:
        place = field(struct.unpack_from("<I", metadata, 0)[0], header)
        if place is None:
            return False
        return field(place + struct.unpack_from("<I", metadata, place)[0], compression) is not None
    except struct.error as error:
        raise pyarrow().ArrowInvalid(f"a batch's description that is none: {error}") from None


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
