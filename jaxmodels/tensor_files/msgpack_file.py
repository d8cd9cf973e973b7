"""Flax's msgpack files: nested maps whose arrays are extension values (shape, dtype name, bytes).

Walked here and not with the `msgpack` library, which hands over each array as a copy in memory; this walk steps over
the data and keeps its offset. Format: https://github.com/msgpack/msgpack/blob/master/spec.md, flax/serialization.py
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
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    )
}
# First byte -> kind and the struct layout of what follows: a value, or the count of bytes or items.
_HEADS = {
    **{0xC0 + i: ("other", None) for i in (0, 2, 3)},
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
    shape: tuple[int, ...]
    dtype: np.dtype
    spans: tuple[tuple[int, int], ...]


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """The arrays of one file under the dotted paths of the maps they lie in. Raises FormatError."""
    with file.stream() as stream:
        reader = BoundedReader(stream, 0, file.size)
        tree = _Walk(reader).value(0)
        if not isinstance(tree, dict) or reader.position != reader.end:
            raise FormatError(
                "one msgpack map that fills the file", f"{describe(tree)} in {reader.position} of {reader.end} bytes"
            )
    arrays = flatten(tree, StoredArray)
    return {
        name: TensorEntry(name, array.shape, array.dtype, file.path, array.spans, file=file)
        for name, array in arrays.items()
    }


class _Walk:
    def __init__(self, reader: BoundedReader):
        self.reader, self.nodes_left = reader, MAX_NODES

    def value(self, depth: int) -> object:
        """The next value: a dict, a list, a StoredArray, a number, or None for what holds no array."""
        kind, content = self.head()
        if kind == "number":
            return content
        if kind == "bytes":
            self.reader.skip(content)
        elif kind == "extension":
            return self.extension(content)
        elif kind == "array":
            self.check_depth(depth)
            return [self.value(depth + 1) for _ in range(content)]
        elif kind == "map":
            self.check_depth(depth)
            return self.map(content, depth)
        return None

    def head(self) -> tuple[str, int | float | None]:
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise FormatError(f"at most {MAX_NODES} values", "more", SAVE_AGAIN)
        [first] = self.reader.take(1)
        if first < 0x80:
            return "number", first
        if first < 0xC0:  # the counts of small containers and strings share a byte with the kind
            kind, bits = ("map", 4) if first < 0x90 else ("array", 4) if first < 0xA0 else ("bytes", 5)
            return kind, first & ((1 << bits) - 1)
        if first >= 0xE0:
            return "number", first - 0x100
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        if first not in _HEADS:
            raise FormatError("a msgpack value", f"byte {first:#x} at byte {self.reader.position - 1}")
        kind, layout = _HEADS[first]
        return kind, layout and struct.unpack(layout, self.reader.take(struct.calcsize(layout)))[0]

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
        return _joined(result) if CHUNKED in result else result

    def expect(self, wanted: str, what: str) -> int:
        kind, content = self.head()
        if kind != wanted or not isinstance(content, int):
            raise FormatError(what, f"a msgpack {kind} before byte {self.reader.position}")
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


def _joined(fields: dict[str, object]) -> StoredArray:
    """One array of flat pieces: Flax cuts arrays above 1 GiB, for a msgpack value cannot be longer than 4 GiB."""
    shape = checked_sizes(_numbered(fields.get("shape")), "the shape of an array in pieces")
    pieces = _numbered(fields.get("chunks"))
    if not pieces or not all(isinstance(piece, StoredArray) and piece.dtype == pieces[0].dtype for piece in pieces):
        raise FormatError("the pieces of an array, of one dtype", describe(fields.get("chunks")))
    spans = tuple(span for piece in pieces for span in piece.spans)
    expected, found = byte_count(shape, pieces[0].dtype.itemsize), sum(count for _, count in spans)
    if expected != found:
        raise FormatError(f"{expected} bytes in the pieces of an array of shape {shape}", f"{found}")
    return StoredArray(shape, pieces[0].dtype, spans)


def _numbered(fields: object) -> list:
    """The values of {"0": ..., "1": ...}, Flax's form of a tuple."""
    if not isinstance(fields, dict) or any(str(index) not in fields for index in range(len(fields))):
        raise FormatError("a map numbered from 0 on", describe(fields))
    return [fields[str(index)] for index in range(len(fields))]
