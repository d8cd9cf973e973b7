"""Flax's msgpack format: nested maps whose arrays are extension values (shape, dtype name, bytes).

Files are parsed here instead of by the `msgpack` library, which copies every array into memory; this parser skips the
data and records its offset. Formats: https://github.com/msgpack/msgpack/blob/master/spec.md, flax/serialization.py
"""

import struct
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .entry import TensorEntry
from .file_io import BoundedReader, OpenedFile
from .validation import MAX_NODES, SAVE_AGAIN, FormatError, byte_count, checked_sizes, describe, flatten

ARRAY_EXTENSION, SCALAR_EXTENSION = 1, 3
CHUNKED = "__msgpack_chunked_array__"
DTYPES = {
    np.dtype(dtype).name: np.dtype(dtype)
    for dtype in (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    )
}
# First byte -> type, and struct layout of what follows: the value, or the number of bytes or items.
_TYPES: dict[int, tuple[str, str]] = {
    **{0xC0 + i: ("other", "") for i in (0, 2, 3)},
    **{0xC4 + i: ("bytes", layout) for i, layout in enumerate((">B", ">H", ">I"))},
    **{0xC7 + i: ("extension", layout) for i, layout in enumerate((">B", ">H", ">I"))},
    **{0xCA + i: ("number", layout) for i, layout in enumerate((">f", ">d", ">B", ">H", ">I", ">Q"))},
    **{0xD0 + i: ("number", layout) for i, layout in enumerate((">b", ">h", ">i", ">q"))},
    **{0xD9 + i: ("bytes", layout) for i, layout in enumerate((">B", ">H", ">I"))},
    **{0xDC + i: ("array", layout) for i, layout in enumerate((">H", ">I"))},
    **{0xDE + i: ("map", layout) for i, layout in enumerate((">H", ">I"))},
}
MAX_TEXT = 1024
MAX_DEPTH = 64


@dataclass(frozen=True)
class StoredArray:
    """An array in the file; spans: (offset, byte count) of the parts of its data."""

    shape: tuple[int, ...]
    dtype: np.dtype
    spans: tuple[tuple[int, int], ...]


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """Reads the structure of a file.

    Returns:
      The arrays by dotted path of the nested maps.

    Raises:
      FormatError: an invalid file.
    """
    with file.stream() as stream:
        reader = BoundedReader(stream, 0, file.size)
        tree = _Parser(reader).value(0)
        if not isinstance(tree, dict) or reader.position != reader.end:
            raise FormatError(
                "one msgpack map that fills the file", f"{describe(tree)} in {reader.position} of {reader.end} bytes"
            )
    arrays = flatten(tree, StoredArray)
    return {
        name: TensorEntry(name, array.shape, array.dtype, file.path, array.spans, file=file)
        for name, array in arrays.items()
    }


class _Parser:
    def __init__(self, reader: BoundedReader):
        self.reader, self.nodes_left = reader, MAX_NODES

    def value(self, depth: int) -> object:
        """Parses the next value: a dict, a list, a StoredArray, a number, or None for values without arrays."""
        value_type, content = self.head()
        if value_type == "number":
            return content
        if value_type == "bytes":
            self.reader.skip(int(content))
        elif value_type == "extension":
            return self.extension(int(content))
        elif value_type == "array":
            self.check_depth(depth)
            return [self.value(depth + 1) for _ in range(int(content))]
        elif value_type == "map":
            self.check_depth(depth)
            return self.map(int(content), depth)
        return None

    def head(self) -> tuple[str, int | float]:
        """Parses the type of a value, and a number: the value itself, or the number of bytes or items that follow."""
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise FormatError(f"at most {MAX_NODES} values", "more", SAVE_AGAIN)
        [first] = self.reader.take(1)
        if first < 0x80:
            return "number", first
        if first < 0xC0:  # the size of small containers and strings is part of the first byte
            value_type, bits = ("map", 4) if first < 0x90 else ("array", 4) if first < 0xA0 else ("bytes", 5)
            return value_type, first & ((1 << bits) - 1)
        if first >= 0xE0:
            return "number", first - 0x100
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        if first not in _TYPES:
            raise FormatError("a msgpack value", f"byte {first:#x} at byte {self.reader.position - 1}")
        value_type, layout = _TYPES[first]
        return value_type, struct.unpack(layout, self.reader.take(struct.calcsize(layout)))[0] if layout else 0

    def check_depth(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise FormatError(f"maps nested at most {MAX_DEPTH} deep", "deeper ones", SAVE_AGAIN)

    def map(self, count: int, depth: int) -> object:
        result: dict[str, object] = {}
        for _ in range(count):
            key = self.text("a map's key")
            if key in result:
                raise FormatError("a map with each key once", f"{describe(key)} twice", SAVE_AGAIN)
            result[key] = self.value(depth + 1)
        return _join_chunks(result) if CHUNKED in result else result

    def expect(self, expected: str, what: str) -> int:
        value_type, content = self.head()
        if value_type != expected or not isinstance(content, int):
            raise FormatError(what, f"a msgpack {value_type} before byte {self.reader.position}")
        return content

    def text(self, what: str) -> str:
        count = self.expect("bytes", what)
        if count > MAX_TEXT:
            raise FormatError(f"{what} of at most {MAX_TEXT} bytes", f"{count}", SAVE_AGAIN)
        data = self.reader.take(count)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{what} in UTF-8", describe(data)) from None

    def extension(self, count: int) -> StoredArray | None:
        [code] = self.reader.take(1)
        end = self.reader.position + count
        if code not in (ARRAY_EXTENSION, SCALAR_EXTENSION):
            self.reader.skip(count)
            return None
        if self.expect("array", "shape, dtype and data of an array") != 3:
            raise FormatError("shape, dtype and data of an array", f"something else before byte {self.reader.position}")
        rank = self.expect("array", "a shape")
        shape = checked_sizes([self.expect("number", "a dimension") for _ in range(min(rank, 65))], "a shape")
        name = self.text("a dtype")
        if name not in DTYPES:
            raise FormatError(f"a dtype of {', '.join(DTYPES)}", describe(name), SAVE_AGAIN)
        nbytes = self.expect("bytes", "an array's data")
        if nbytes != byte_count(shape, DTYPES[name].itemsize) or self.reader.position + nbytes != end:
            raise FormatError(f"the {count} bytes of a {name} array of shape {shape}", f"{nbytes} bytes of data")
        return StoredArray(shape, DTYPES[name], ((self.reader.skip(nbytes), nbytes),))


def _join_chunks(fields: dict[str, object]) -> StoredArray:
    """Joins the flat chunks of an array above 1 GiB; Flax splits these, because msgpack values are limited to 4 GiB."""
    shape = checked_sizes(_numbered_values(fields.get("shape")), "the shape of an array in chunks")
    values = _numbered_values(fields.get("chunks"))
    chunks = [value for value in values if isinstance(value, StoredArray)]
    if not chunks or len(chunks) < len(values) or any(chunk.dtype != chunks[0].dtype for chunk in chunks):
        raise FormatError("the chunks of an array, of one dtype", describe(fields.get("chunks")))
    spans = tuple(span for chunk in chunks for span in chunk.spans)
    expected, found = byte_count(shape, chunks[0].dtype.itemsize), sum(count for _, count in spans)
    if expected != found:
        raise FormatError(f"{expected} bytes in the chunks of an array of shape {shape}", f"{found}")
    return StoredArray(shape, chunks[0].dtype, spans)


def _numbered_values(fields: object) -> list[object]:
    """The values of {"0": ..., "1": ...}, Flax's form of a tuple."""
    if not isinstance(fields, dict) or any(str(index) not in fields for index in range(len(fields))):
        raise FormatError("a map with the keys 0, 1, ...", describe(fields))
    return [fields[str(index)] for index in range(len(fields))]
