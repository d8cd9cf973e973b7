"""Titles and texts of passages in a memory-mapped Arrow file, read on demand.

Each record batch carries a digest of its strings, and an empty batch at the end carries a digest of all batches, so
that readers can verify the content.
"""

import bisect
import hashlib
import itertools
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from jaxmodels.messages import brief
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tensor_files.file_io import OpenedFile, open_file

PASSAGES = "passages.arrow"
MAGIC = b"ARROW1\0\0"  # precedes the stream that makes up the rest of the file, except for the footer
# Small enough that the offsets within a batch fit into 32 bits and that one batch takes little memory.
BATCH_ROWS = 4096
_SHA256, _ROWS = "sha256", "rows"
_EXPECTED, _REMEDY = "an Arrow file with the string columns `title` and `text`", "copy it again, or write it again"


def pyarrow() -> ModuleType:
    """Imports pyarrow; raises ImportError that says what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("passages require pyarrow: pip install 'jaxmodels[retrieval]'") from error
    return pyarrow


def map_file(file: OpenedFile) -> Any:
    """Memory-maps a file as a pyarrow buffer; raises ArrowInvalid if it is empty, which cannot be mapped."""
    arrow = pyarrow()
    if not file.size:
        raise arrow.ArrowInvalid("an empty file")
    return arrow.py_buffer(mmap.mmap(file.descriptor, file.size, access=mmap.ACCESS_READ))


def open_stream(data: Any) -> Any:
    """Opens a stream of uncompressed record batches, which takes no memory beyond the mapping.

    Raises:
      ArrowInvalid: not such a stream. Compressed batches are refused, since a few bytes of them may expand to any
        amount of memory.
    """
    arrow = pyarrow()
    for message in arrow.ipc.MessageReader.open_stream(data):
        if message.type not in ("schema", "record batch"):
            raise arrow.ArrowInvalid(f"a message of type {message.type} in addition to schema and record batches")
        if message.type == "record batch" and _is_compressed(message.metadata):
            raise arrow.ArrowInvalid("compressed batches; write it without compression")
    return arrow.ipc.open_stream(data)


def _is_compressed(metadata: Any) -> bool:
    """Whether a record batch is compressed; pyarrow does not tell before decoding it.

    Source of the layout: format/Message.fbs of Apache Arrow; flatbuffers' tables.
    """
    header, compression = 2, 3  # field numbers

    def field(table: int, number: int) -> int | None:
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        [size] = struct.unpack_from("<H", metadata, fields)
        position = 4 + 2 * number
        [offset] = struct.unpack_from("<H", metadata, fields + position) if position < size else [0]
        return table + offset if offset else None

    try:
        position = field(struct.unpack_from("<I", metadata, 0)[0], header)
        if position is None:
            return False
        return field(position + struct.unpack_from("<I", metadata, position)[0], compression) is not None
    except struct.error as error:
        raise pyarrow().ArrowInvalid(f"invalid metadata of a record batch: {error}") from None


def _check_strings(column: Any) -> Any:
    """Returns a string column after checking it; raises ArrowInvalid for bad offsets, invalid UTF-8 or nulls."""
    arrow = pyarrow()
    column.validate(full=True)
    if column.null_count:
        raise arrow.ArrowInvalid(f"{column.null_count} null strings")
    return column


class _File(NamedTuple):
    """Contents of a passages file. sha256: digest of each batch; None for a file without digests."""

    file: OpenedFile
    batches: list[Any]
    sha256: list[str] | None
    digest: str | None


class Passages(Sequence[tuple[str, str]]):
    """(title, text) of each row of an index: `passages[i]`, `len(passages)`, iteration, and `passages.take(ids)`.

    Passages of a file are checked in batches of 4096 rows: against the digest on first access, and on every access that
    the file was not written to since it was opened. A failed check raises TensorFileError.

    Attributes:
      digest: of all passages, 64 hexadecimal digits; None if the file has none.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]):
        """Creates passages in memory; see `write` and `load` for passages in a file.

        Args:
          rows: (title, text) pairs.

        Raises:
          ValueError: a row is not a pair of strings.
        """
        batches = list(_batches(rows))
        self._set(batches, _join_digests(_digests(batches), sum(batch.num_rows for batch in batches)), None)

    @classmethod
    def write(cls, folder: str | Path, rows: Iterable[tuple[str, str]]) -> Self:
        """Writes passages.arrow into the folder atomically, with one batch in memory at a time, and opens it."""
        with atomic_save(Path(folder), "passages") as staging:
            write_passages(staging, rows)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: str | Path | FolderSnapshot) -> Self:
        """Opens passages.arrow of the folder, memory-mapped.

        Raises:
          FileNotFoundError: there is none.
          TensorFileError: it is truncated, damaged, or lacks the columns title and text.
        """
        found = read_snapshot(folder, _open)
        passages = object.__new__(cls)
        passages._set(found.batches, found.digest, found)
        return passages

    def save(self, folder: str | Path) -> None:
        """Writes passages.arrow into the folder; other files in it stay."""
        self.write(folder, self)

    def _set(self, batches: list[Any], digest: str | None, source: _File | None) -> None:
        self._columns = [(batch.column("title"), batch.column("text")) for batch in batches]
        self._ends = list(itertools.accumulate(batch.num_rows for batch in batches))
        self.digest, self._source, self._checked = digest, source, set[int]()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[tuple[str, str]]: ...
    def __getitem__(self, i: int | slice) -> tuple[str, str] | Sequence[tuple[str, str]]:
        """Returns (title, text). Raises IndexError for negative ids: -1 is a missing hit, not the last passage."""
        if isinstance(i, slice):
            raise TypeError("passages cannot be sliced; use take(ids)")
        if not 0 <= i < len(self):
            raise IndexError(f"i must select one of the passages 0 to {len(self) - 1}, got {i}")
        at = bisect.bisect_right(self._ends, i)
        titles, texts = self._strings(at)
        position = int(i) - self._ends[at] + len(titles)
        return titles[position].as_py(), texts[position].as_py()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for at in range(len(self._columns)):
            titles, texts = self._strings(at)
            yield from zip(titles.to_pylist(), texts.to_pylist(), strict=True)

    def take(self, ids: ArrayLike) -> list[tuple[str, str]]:
        """Returns the passages of ids [n]; two empty strings for -1 (a missing hit)."""
        return [("", "") if i == -1 else self[i] for i in np.asarray(ids).tolist()]

    def _strings(self, at: int) -> tuple[Any, Any]:
        """Returns the two columns of a batch, checked."""
        if self._source is not None:
            self._source.file.check_unchanged()
            if at not in self._checked:
                self._check(self._source, at)
                self._checked.add(at)
        return self._columns[at]

    def _check(self, source: _File, at: int) -> None:
        arrow, path = pyarrow(), source.file.path
        try:
            columns = [_check_strings(column) for column in self._columns[at]]
        except arrow.ArrowException as error:
            raise TensorFileError(path, _EXPECTED, f"{error}, in batch {at}"[:200], _REMEDY) from None
        if source.sha256 is not None and (found := _digest(columns)) != source.sha256[at]:
            raise TensorFileError(path, f"batch {at} with the sha256 {source.sha256[at]}", found, _REMEDY)


def write_passages(folder: Path, rows: Iterable[tuple[str, str]]) -> tuple[int, str]:
    """Writes passages.arrow into a folder; returns the number of passages and their digest.

    Raises:
      ValueError: a row is not a pair of strings.
    """
    arrow, count = pyarrow(), 0
    digests: list[str] = []
    with arrow.ipc.new_file(str(folder / PASSAGES), _schema()) as writer:
        for batch in _batches(rows):
            digests += _digests([batch])
            writer.write_batch(batch, custom_metadata={_SHA256: digests[-1]})
            count += batch.num_rows
        digest = _join_digests(digests, count)
        empty = arrow.record_batch([[], []], schema=_schema())
        writer.write_batch(empty, custom_metadata={_SHA256: digest, _ROWS: str(count)})
    return count, digest


def _open(folder: FolderSnapshot) -> _File:
    path = folder / PASSAGES
    if not path.is_file():
        raise FileNotFoundError(f"no passages in {folder}: expected {PASSAGES}, as written by Passages.write")
    arrow, file = pyarrow(), open_file(path)
    try:
        data = map_file(file)
        footer = arrow.ipc.open_file(data)  # tells how many batches there should be
        reader = open_stream(data.slice(len(MAGIC)))
        types = {field.name: field.type for field in reader.schema}
        if types != {"title": arrow.string(), "text": arrow.string()} or len(reader.schema) != 2:
            raise arrow.ArrowInvalid(f"columns {', '.join(f'{name} {dtype}' for name, dtype in types.items())}")
        found = list(reader.iter_batches_with_custom_metadata())
        for batch, _ in found:
            batch.validate()
        if len(found) != footer.num_record_batches:
            raise arrow.ArrowInvalid(f"{len(found)} batches, but the footer lists {footer.num_record_batches}")
        return _check_digests(file, found)
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: strings of the schema are not UTF-8
        raise TensorFileError(path, _EXPECTED, str(error)[:200], _REMEDY) from None


def _check_digests(file: OpenedFile, found: list[tuple[Any, Any]]) -> _File:
    notes = [dict(metadata or {}) for _, metadata in found]
    if not any(notes):  # written by jaxmodels 0.1 or by another program
        return _File(file, [batch for batch, _ in found], None, None)
    sha256 = [note.get(_SHA256.encode(), b"").decode() for note in notes]
    batches, digests = [batch for batch, _ in found[:-1]], sha256[:-1]
    rows = sum(batch.num_rows for batch in batches)
    last = {_SHA256: _join_digests(digests, rows), _ROWS: str(rows)}
    if found[-1][0].num_rows or notes[-1] != {name.encode(): value.encode() for name, value in last.items()}:
        raise ValueError(f"{len(batches)} batches of {rows} rows in total, which do not match the digest in the file")
    return _File(file, batches, digests, last[_SHA256])


def _digests(batches: Iterable[Any]) -> list[str]:
    return [_digest([batch.column("title"), batch.column("text")]) for batch in batches]


def _digest(columns: Sequence[Any]) -> str:
    """Returns the SHA-256 of string columns, whose offsets must have been checked."""
    sha256 = hashlib.sha256()
    for column in columns:
        _, offsets, data = column.buffers()
        positions = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
        sha256.update((positions - positions[0]).astype("<i4").tobytes())
        if data is not None:
            sha256.update(memoryview(data)[int(positions[0]) : int(positions[-1])])
    return sha256.hexdigest()


def _join_digests(digests: Sequence[str], rows: int) -> str:
    return hashlib.sha256("\n".join([*digests, str(rows)]).encode()).hexdigest()


def _schema() -> Any:
    arrow = pyarrow()
    return arrow.schema([("title", arrow.string()), ("text", arrow.string())])


def _batches(rows: Iterable[tuple[str, str]]) -> Iterator[Any]:
    arrow, start, remaining = pyarrow(), 0, iter(rows)
    while batch := list(itertools.islice(remaining, BATCH_ROWS)):
        for i, row in enumerate(batch, start):
            if not (isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
                raise ValueError(f"a passage must be (title, text), two strings; passage {i} is {brief(row)}")
        yield arrow.record_batch([list(column) for column in zip(*batch, strict=True)], schema=_schema())
        start += len(batch)
