"""Files of other programs that hold passages or their embeddings: a table of texts, faiss's flat index, `datasets`."""

import csv
import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmodels.retrieval.passages import pyarrow
from jaxmodels.tensor_files import TensorFileError

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
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t")
        try:
            header = next(lines, [])
            if not {"id", "title", "text"} <= set(header):
                raise ValueError(f"{path}: expected a header with id, text and title, found {header!r:.200}")
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

    Raises FileNotFoundError where there is none, ValueError for one of several splits.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if (self.folder / "dataset_dict.json").is_file():
            splits = json.loads((self.folder / "dataset_dict.json").read_text())["splits"]
            raise ValueError(f"{self.folder} holds the splits {', '.join(splits)}; give the folder of one of them")
        state = self.folder / "state.json"
        if not state.is_file():
            raise FileNotFoundError(f"no dataset in {self.folder}: expected state.json, as save_to_disk writes it")
        described = json.loads(state.read_text())
        if described.get("_indices_data_files") or described.get("_indices_files"):
            raise ValueError(f"{self.folder} is a selection from another dataset: save flatten_indices() of it instead")
        self.files = [self.folder / Path(entry["filename"]).name for entry in described["_data_files"]]

    def embeddings(self, column: str = "embeddings") -> Iterator[np.ndarray]:
        """[n, D] float32, batch by batch. Raises ValueError where rows are missing or of different lengths."""
        for batch in self._batches((column,)):
            cells = batch.column(column)
            values = cells.flatten().to_numpy(zero_copy_only=False)
            lengths = (
                np.diff(cells.offsets.to_numpy()) if hasattr(cells, "offsets") else np.array([cells.type.list_size])
            )
            if cells.null_count or len(set(lengths.tolist())) > 1:
                raise ValueError(f"{self.folder}: the lists in {column!r} are missing or of different lengths")
            yield values.astype(np.float32).reshape(len(cells), -1)

    def passages(self, title: str = "title", text: str = "text") -> Iterator[tuple[str, str]]:
        for batch in self._batches((title, text)):
            yield from zip(batch.column(title).to_pylist(), batch.column(text).to_pylist(), strict=True)

    def _batches(self, columns: tuple[str, ...]) -> Iterator:
        arrow = pyarrow()
        for path in self.files:
            try:
                with arrow.memory_map(str(path)) as mapped, arrow.ipc.open_stream(mapped) as reader:
                    if missing := [name for name in columns if name not in reader.schema.names]:
                        raise ValueError(
                            f"{path}: no column {missing[0]!r}; there are {', '.join(reader.schema.names)}"
                        )
                    yield from (batch for batch in reader if batch.num_rows)
            except (arrow.ArrowException, OSError) as error:
                raise TensorFileError(path, "a complete Arrow stream", str(error)) from None
