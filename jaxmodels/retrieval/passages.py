"""The passages' titles and texts in a memory-mapped Arrow file: nothing of it is in memory until it is asked for.

Each batch of the file carries a digest of its texts, and a batch without rows at the end one of all batches, so that
the file's readers can tell whether the texts are those that were written.
"""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from jaxmodels.messages import brief
from jaxmodels.retrieval.arrow_file import checked_texts, mapped, opened_stream, pyarrow
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tensor_files.file_io import OpenedFile, open_file

PASSAGES = "passages.arrow"
MAGIC = b"ARROW1\0\0"  # before the stream that the rest of a file is, but for its end
# Small enough that the offsets within a batch fit 32 bits, and that one batch is little memory.
BATCH_ROWS = 4096
_SHA256, _ROWS = "sha256", "rows"
_EXPECTED, _REMEDY = "an Arrow file of the texts `title` and `text`", "copy it again, or write it again"


class _File(NamedTuple):
    """What a file says of itself. sha256: of each batch, None for a file without digests."""

    file: OpenedFile
    batches: list
    sha256: list[str] | None
    digest: str | None


class Passages(Sequence):
    """(title, text) by row of the index: `passages[i]`, `len(passages)`, iteration, and `passages.take(ids)`.

    Texts of a file are checked when one of their batch (4096 rows) is asked for: the first time against their digest,
    each time that nothing was written into the file since it was opened. What does not hold is a TensorFileError.

    Attributes:
      digest: of all texts, 64 hexadecimal digits; None where a file has none.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]):
        """In memory; `write` and `load` have them in a file.

        Raises:
          ValueError: a row that is not a title and a text.
        """
        batches = list(_batches(rows))
        self._set(batches, _joined(_digests(batches), sum(batch.num_rows for batch in batches)), None)

    @classmethod
    def write(cls, folder: str | Path, rows: Iterable[tuple[str, str]]) -> Self:
        """Writes passages.arrow into the folder, all or nothing, with one batch in memory, and opens it."""
        with atomic_save(Path(folder), "passages") as staging:
            write_passages(staging, rows)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: str | Path | FolderSnapshot) -> Self:
        """Opens passages.arrow of the folder, memory-mapped.

        Raises:
          FileNotFoundError: there is none.
          TensorFileError: it is cut short, damaged, or lacks the columns title and text.
        """
        found = read_snapshot(folder, _open)
        passages = object.__new__(cls)
        passages._set(found.batches, found.digest, found)
        return passages

    def save(self, folder: str | Path) -> None:
        """Writes passages.arrow into the folder, beside an index perhaps."""
        self.write(folder, self)

    def _set(self, batches: list, digest: str | None, source: _File | None) -> None:
        self._columns = [(batch.column("title"), batch.column("text")) for batch in batches]
        self._ends = list(itertools.accumulate(batch.num_rows for batch in batches))
        self.digest, self._source, self._checked = digest, source, set[int]()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> tuple[str, str]:
        """Raises IndexError for negative numbers too: -1 is a missing hit, not the last passage."""
        if not 0 <= i < len(self):
            raise IndexError(f"there are passages 0 to {len(self) - 1}, got {i}")
        at = bisect.bisect_right(self._ends, i)
        titles, texts = self._texts(at)
        place = int(i) - self._ends[at] + len(titles)
        return titles[place].as_py(), texts[place].as_py()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for at in range(len(self._columns)):
            titles, texts = self._texts(at)
            yield from zip(titles.to_pylist(), texts.to_pylist(), strict=True)

    def take(self, ids) -> list[tuple[str, str]]:
        """The passages of ids [n]; two empty texts for -1 (a missing hit)."""
        return [("", "") if i == -1 else self[i] for i in np.asarray(ids).tolist()]

    def _texts(self, at: int) -> tuple:
        """The two columns of a batch."""
        if self._source is not None:
            self._source.file.check_unchanged()
            if at not in self._checked:
                self._check(self._source, at)
                self._checked.add(at)
        return self._columns[at]

    def _check(self, source: _File, at: int) -> None:
        arrow, path = pyarrow(), source.file.path
        try:
            columns = [checked_texts(column) for column in self._columns[at]]
        except arrow.ArrowException as error:
            raise TensorFileError(path, _EXPECTED, f"{error}, in batch {at}"[:200], _REMEDY) from None
        if source.sha256 is not None and (found := _digest(columns)) != source.sha256[at]:
            raise TensorFileError(path, f"batch {at} with the sha256 {source.sha256[at]}", found, _REMEDY)


def write_passages(folder: Path, rows: Iterable[tuple[str, str]]) -> tuple[int, str]:
    """Writes passages.arrow into a folder; returns the number of passages and their digest.

    Raises ValueError as `Passages`.
    """
    arrow, digests, count = pyarrow(), [], 0
    with arrow.ipc.new_file(str(folder / PASSAGES), _schema()) as writer:
        for batch in _batches(rows):
            digests += _digests([batch])
            writer.write_batch(batch, custom_metadata={_SHA256: digests[-1]})
            count += batch.num_rows
        whole = _joined(digests, count)
        nothing = arrow.record_batch([[], []], schema=_schema())
        writer.write_batch(nothing, custom_metadata={_SHA256: whole, _ROWS: str(count)})
    return count, whole


def _open(folder: FolderSnapshot) -> _File:
    path = folder / PASSAGES
    if not path.is_file():
        raise FileNotFoundError(f"no passages in {folder}: expected {PASSAGES}, as Passages.write writes it")
    arrow, file = pyarrow(), open_file(path)
    try:
        data = mapped(file)
        complete = arrow.ipc.open_file(data)  # whose end says how many batches there are
        reader = opened_stream(data.slice(len(MAGIC)))
        kinds = {field.name: field.type for field in reader.schema}
        if kinds != {"title": arrow.string(), "text": arrow.string()} or len(reader.schema) != 2:
            raise arrow.ArrowInvalid(f"columns {', '.join(f'{name} {kind}' for name, kind in kinds.items())}")
        found = list(reader.iter_batches_with_custom_metadata())
        for batch, _ in found:
            batch.validate()
        if len(found) != complete.num_record_batches:
            raise arrow.ArrowInvalid(f"{len(found)} batches, and {complete.num_record_batches} by its end")
        return _described(file, found)
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: texts of the schema that are not UTF-8
        raise TensorFileError(path, _EXPECTED, str(error)[:200], _REMEDY) from None


def _described(file: OpenedFile, found: list) -> _File:
    notes = [dict(metadata or {}) for _, metadata in found]
    if not any(notes):  # of jaxmodels 0.1, or of another program
        return _File(file, [batch for batch, _ in found], None, None)
    sha256 = [note.get(_SHA256.encode(), b"").decode() for note in notes]
    batches, digests = [batch for batch, _ in found[:-1]], sha256[:-1]
    rows = sum(batch.num_rows for batch in batches)
    last = {_SHA256: _joined(digests, rows), _ROWS: str(rows)}
    if found[-1][0].num_rows or notes[-1] != {name.encode(): value.encode() for name, value in last.items()}:
        raise ValueError(f"{len(batches)} batches of {rows} rows in all, which are not those that were written")
    return _File(file, batches, digests, last[_SHA256])


def _digests(batches: Iterable) -> list[str]:
    return [_digest([batch.column("title"), batch.column("text")]) for batch in batches]


def _digest(columns: Sequence) -> str:
    """Of texts whose offsets were checked, or that are ours."""
    sha256 = hashlib.sha256()
    for column in columns:
        _, offsets, data = column.buffers()
        places = np.frombuffer(offsets, np.int32, len(column) + 1, 4 * column.offset)
        sha256.update((places - places[0]).astype("<i4").tobytes())
        if data is not None:
            sha256.update(memoryview(data)[int(places[0]) : int(places[-1])])
    return sha256.hexdigest()


def _joined(digests: Sequence[str], rows: int) -> str:
    return hashlib.sha256("\n".join([*digests, str(rows)]).encode()).hexdigest()


def _schema():
    arrow = pyarrow()
    return arrow.schema([("title", arrow.string()), ("text", arrow.string())])


def _batches(rows: Iterable[tuple[str, str]]) -> Iterator:
    arrow, start, rows = pyarrow(), 0, iter(rows)
    while some := list(itertools.islice(rows, BATCH_ROWS)):
        for i, row in enumerate(some, start):
            if not (isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
                raise ValueError(f"a passage is (title, text), two strings; passage {i} is {brief(row)}")
        yield arrow.record_batch([list(column) for column in zip(*some, strict=True)], schema=_schema())
        start += len(some)
