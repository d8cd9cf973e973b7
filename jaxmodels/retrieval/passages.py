"""The passages' titles and texts in a memory-mapped Arrow file: nothing of it is in memory until it is asked for."""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np

from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.commit import finish_save, staged

PASSAGES = "passages.arrow"
# Small enough that the offsets within a batch fit 32 bits, and that one batch is little memory.
BATCH_ROWS = 4096


def pyarrow() -> ModuleType:
    """Raises ImportError with what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("passages are kept by pyarrow: pip install 'jaxmodels[retrieval]'") from error
    return pyarrow


class Passages(Sequence):
    """(title, text) by row of the index: `passages[i]`, `len(passages)`, iteration, and `passages.take(ids)`."""

    def __init__(self, rows: Iterable[tuple[str, str]]):
        """In memory; `write` and `load` have them in a file.

        Raises:
          ValueError: a row that is not a title and a text.
        """
        self._set(list(_batches(rows)))

    @classmethod
    def write(cls, folder: str | Path, rows: Iterable[tuple[str, str]]) -> Self:
        """Writes passages.arrow into the folder, all or nothing, with one batch in memory, and opens it."""
        with staged(Path(folder), ()) as staging:
            write_passages(staging, rows)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Opens passages.arrow of the folder, memory-mapped.

        Raises:
          FileNotFoundError: there is none.
          TensorFileError: it is cut short, damaged, or lacks the columns title and text.
        """
        folder = Path(folder)
        if folder.is_dir():
            finish_save(folder)
        path = folder / PASSAGES
        if not path.is_file():
            raise FileNotFoundError(f"no passages in {folder}: expected {PASSAGES}, as Passages.write writes it")
        arrow = pyarrow()
        try:
            reader = arrow.ipc.open_file(arrow.memory_map(str(path)))
            kinds = {field.name: field.type for field in reader.schema}
            if kinds != {"title": arrow.string(), "text": arrow.string()}:
                raise arrow.ArrowInvalid(f"columns {', '.join(f'{name} {kind}' for name, kind in kinds.items())}")
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (arrow.ArrowException, OSError) as error:
            expected, remedy = "an Arrow file of the texts `title` and `text`", "copy it again, or write it again"
            raise TensorFileError(path, expected, str(error), remedy) from None
        passages = object.__new__(cls)
        passages._set(batches)
        return passages

    def save(self, folder: str | Path) -> None:
        """Writes passages.arrow into the folder, beside an index perhaps."""
        self.write(folder, self)

    def _set(self, batches: list) -> None:
        self._columns = [(batch.column("title"), batch.column("text")) for batch in batches]
        self._ends = list(itertools.accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> tuple[str, str]:
        """Raises IndexError for negative numbers too: -1 is a missing hit, not the last passage."""
        if not 0 <= i < len(self):
            raise IndexError(f"there are passages 0 to {len(self) - 1}, got {i}")
        at = bisect.bisect_right(self._ends, i)
        titles, texts = self._columns[at]
        place = int(i) - self._ends[at] + len(titles)
        return titles[place].as_py(), texts[place].as_py()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for titles, texts in self._columns:
            yield from zip(titles.to_pylist(), texts.to_pylist(), strict=True)

    def take(self, ids) -> list[tuple[str, str]]:
        """The passages of ids [n]; two empty texts for -1 (a missing hit)."""
        return [("", "") if i == -1 else self[i] for i in np.asarray(ids).tolist()]


def write_passages(folder: Path, rows: Iterable[tuple[str, str]]) -> int:
    """Writes passages.arrow into a folder and returns the number of passages. Raises ValueError as `Passages`."""
    arrow, count = pyarrow(), 0
    with arrow.ipc.new_file(str(folder / PASSAGES), _schema()) as writer:
        for batch in _batches(rows):
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _schema():
    arrow = pyarrow()
    return arrow.schema([("title", arrow.string()), ("text", arrow.string())])


def _batches(rows: Iterable[tuple[str, str]]) -> Iterator:
    arrow, start, rows = pyarrow(), 0, iter(rows)
    while some := list(itertools.islice(rows, BATCH_ROWS)):
        for i, row in enumerate(some, start):
            if not (isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
                raise ValueError(f"a passage is (title, text), two strings; passage {i} is {row!r:.100}")
        yield arrow.record_batch([list(column) for column in zip(*some, strict=True)], schema=_schema())
        start += len(some)
