"""Files of other programs that hold passages or their embeddings: a table of texts, faiss's flat index, `datasets`."""

import csv
import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmodels.messages import brief
from jaxmodels.retrieval.arrow_file import mapped, opened_stream, pyarrow
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.atomic_save import is_plain_filename
from jaxmodels.tensor_files.file_io import OpenedFile, open_file
from jaxmodels.tensor_files.safetensors_file import read_json_object
from jaxmodels.tensor_files.validation import FormatError

# fourcc, d, ntotal, two unused numbers, is_trained, metric, count of floats. Source: faiss's index_write.cpp.
FLAT_HEADER = struct.Struct("<4siqqq?iQ")
METRICS = {0: "inner product", 1: "L2 distance"}


class Passage(NamedTuple):
    """One row of a table."""

    id: str
    title: str
    text: str


def read_passages_tsv(path: str | Path) -> Iterator[Passage]:
    """The rows of a table like DPR's psgs_w100.tsv or .tsv.gz: tabs, quoted as in CSV, a header of id, text, title.

    Raises:
      ValueError: a header without these columns, or a line with another number of them.
    """
    path = Path(path)
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t")
        try:
            header = next(lines, [])
            if not {"id", "title", "text"} <= set(header):
                raise ValueError(f"{path}: expected a header with id, text and title, found {brief(header)}")
            order = [header.index(name) for name in Passage._fields]
            for cells in lines:
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: {len(header)} columns expected, {len(cells)} found"
                    )
                yield Passage(*(cells[place] for place in order))
        except (csv.Error, EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, after line {lines.line_num}: {error}; download or write it again") from None


def read_faiss_flat(path: str | Path) -> np.ndarray:
    """The vectors [N, D] float32 of faiss's IndexFlatIP, memory-mapped; faiss is not needed.

    Raises:
      TensorFileError: another kind of index, or a file that is cut short. An index of L2 distances is refused, because
        inner products order its vectors differently.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(FLAT_HEADER.size)
    fourcc = head[:4]
    if fourcc not in (b"IxFI", b"IxFl", b"IxF2") or len(head) < FLAT_HEADER.size:
        remedy = "open other kinds with FaissIndex.load"
        raise TensorFileError(path, "an IndexFlatIP that faiss.write_index wrote", f"{fourcc!r} at its start", remedy)
    _, width, rows, _, _, _, metric, count = FLAT_HEADER.unpack(head)
    if metric != 0:
        found = f"an index of {METRICS.get(metric, f'metric {metric}')}"
        remedy = "open it with FaissIndex.load, which searches as faiss does"
        raise TensorFileError(path, "an index of inner products", found, remedy)
    expected = FLAT_HEADER.size + 4 * rows * width
    if width < 1 or rows < 1 or count != rows * width or path.stat().st_size != expected:
        raise TensorFileError(path, f"{rows} rows of {width}: {expected} bytes", f"{path.stat().st_size} bytes")
    return np.memmap(path, "<f4", "r", FLAT_HEADER.size, (rows, width))


class SavedDataset:
    """A folder that `datasets.Dataset.save_to_disk` wrote, read with pyarrow, memory-mapped.

    Raises FileNotFoundError where there is none, ValueError for one of several splits, TensorFileError for damage.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        splits = self.folder / "dataset_dict.json"
        if splits.is_file():
            names = _described(splits).get("splits")
            held = ", ".join(map(str, names)) if isinstance(names, list) else "of no name"
            raise ValueError(f"{self.folder} holds the splits {held:.200}; give the folder of one of them")
        state = self.folder / "state.json"
        if not state.is_file():
            raise FileNotFoundError(f"no dataset in {self.folder}: expected state.json, as save_to_disk writes it")
        described = _described(state)
        if described.get("_indices_data_files") or described.get("_indices_files"):
            raise ValueError(f"{self.folder} is a selection from another dataset: save flatten_indices() of it instead")
        files = described.get("_data_files")
        entries = files if isinstance(files, list) else []
        names = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries]
        if not names or not all(map(is_plain_filename, names)):
            raise TensorFileError(state, "`_data_files`, a list of files beside it", described(files)[:100])
        self.files = [self.folder / name for name in names]

    def embeddings(self, column: str = "embeddings") -> Iterator[np.ndarray]:
        """[n, D] float32, batch by batch. Raises ValueError where rows are missing or of different lengths."""
        for [cells] in self._batches((column,)):
            if not _holds_numbers(cells.type):
                raise ValueError(f"{self.folder}: {column!r} is expected to hold lists of numbers, it has {cells.type}")
            values = cells.flatten()
            lengths = (
                np.diff(cells.offsets.to_numpy()) if hasattr(cells, "offsets") else np.array([cells.type.list_size])
            )
            if cells.null_count or values.null_count or len(set(lengths.tolist())) > 1 or not lengths[0]:
                raise ValueError(f"{self.folder}: the lists in {column!r} are missing, empty or of different lengths")
            rows = values.to_numpy(zero_copy_only=False)
            yield rows.astype(np.float32).reshape(len(cells), -1)

    def passages(self, title: str = "title", text: str = "text") -> Iterator[tuple[str, str]]:
        """Raises ValueError where a column does not hold texts."""
        arrow = pyarrow()
        for columns in self._batches((title, text)):
            for name, column in zip((title, text), columns, strict=True):
                if column.type not in (arrow.string(), arrow.large_string()):
                    raise ValueError(f"{self.folder}: {name!r} is expected to hold texts, it has {column.type}")
            yield from zip(*(column.to_pylist() for column in columns), strict=True)

    def _batches(self, columns: tuple[str, ...]) -> Iterator[list]:
        """The columns of each batch, checked through and through: no digest says whether they are what was written."""
        arrow = pyarrow()
        for path in self.files:
            try:
                file = open_file(path)
                with opened_stream(mapped(file)) as reader:
                    names = reader.schema.names
                    if unfit := [name for name in columns if names.count(name) != 1]:
                        held = ", ".join(names)
                        raise ValueError(f"{path}: no column {unfit[0]!r}; there are {held:.200}")
                    while (found := _next(file, reader, columns)) is not None:
                        if len(found[0]):
                            yield found
            except (arrow.ArrowException, OSError, UnicodeError) as error:
                raise TensorFileError(path, "a complete Arrow stream", str(error)[:200]) from None


def _next(file: OpenedFile, reader, columns: tuple[str, ...]) -> list | None:
    file.check_unchanged()
    try:
        batch = reader.read_next_batch()
    except StopIteration:
        return None
    batch.validate()
    found = [batch.column(name) for name in columns]
    for column in found:
        column.validate(full=True)
    return found


def _described(path: Path) -> dict:
    try:
        return read_json_object(path, "a description of a dataset")
    except FormatError as error:
        raise error.at(path) from None


def _holds_numbers(kind) -> bool:
    types = pyarrow().types
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
