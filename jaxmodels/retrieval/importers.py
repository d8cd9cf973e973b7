"""Import of other programs' files: DPR's pickles and tables, faiss's flat index, `datasets` folders.

Each `import_*` function writes a folder that `load_folder`, `DenseIndex.load` and `Passages.load` open. Index and
passages are written together, atomically, with one batch of either in memory at a time.
"""

import csv
import gzip
import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxmodels.messages import brief
from jaxmodels.retrieval.array_pickle import LEGACY_GRAPH, bare_id, legacy_passages, read_dpr_embeddings
from jaxmodels.retrieval.building import chunks
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.folders import write_folder
from jaxmodels.retrieval.passages import map_file, open_stream, pyarrow
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.atomic_save import is_plain_filename
from jaxmodels.tensor_files.file_io import OpenedFile, open_file, read_json_object
from jaxmodels.tensor_files.validation import FormatError, describe

DECODE_ROWS = 4096  # vectors of a legacy graph that are decoded at a time
# fourcc, d, ntotal, two unused numbers, is_trained, metric, number of floats. Source: faiss's index_write.cpp.
FLAT_HEADER = struct.Struct("<4siqqq?iQ")
METRICS = {0: "inner product", 1: "L2 distance"}


def import_dpr(
    folder: str | Path,
    embeddings: Sequence[str | Path],
    passages: str | Path,
    dtype: DTypeLike = "float32",
    fingerprint: str | None = None,
) -> None:
    """Imports DPR's embedding pickles and its table of passages.

    Args:
      folder: index folder to write.
      embeddings: pickles, in the order of their rows.
      passages: psgs_w100.tsv or .tsv.gz.
      dtype: storage dtype of the index.
      fingerprint: of the encoder.

    Raises:
      TensorFileError: a pickle is damaged or requires anything but arrays.
      ValueError: the ids of the vectors are not those of the table, in its order ("wiki:7" counts as 7).
    """
    ids = (row.id for row in read_passages_tsv(passages))

    def batches() -> Iterator[ArrayLike]:
        for path in embeddings:
            names, vectors = read_dpr_embeddings(path)
            for name, expected in zip(names, itertools.chain(ids, itertools.repeat(None)), strict=False):
                if expected is None or bare_id(name) != bare_id(expected):
                    raise ValueError(
                        f"{path}: expected a vector for passage {expected!r} of {passages}, got one for {name!r}; "
                        "pass the files in the order of their rows"
                    )
            yield from chunks(vectors)

    pairs = ((row.title, row.text) for row in read_passages_tsv(passages))
    write_folder(folder, batches(), pairs, dtype, fingerprint)


def import_faiss(
    folder: str | Path,
    index: str | Path,
    passages: str | Path,
    dtype: DTypeLike = "float32",
    fingerprint: str | None = None,
) -> None:
    """Imports a faiss IndexFlatIP and a table such as psgs_w100.tsv with its rows in the order of the vectors.

    Args:
      folder: index folder to write.
      index: file written by faiss.write_index.
      passages: psgs_w100.tsv or .tsv.gz.
      dtype: storage dtype of the index.
      fingerprint: of the encoder.

    Raises:
      TensorFileError: another type of index.
      ValueError: different numbers of passages and vectors.
    """
    pairs = ((row.title, row.text) for row in read_passages_tsv(passages))
    write_folder(folder, chunks(read_faiss_flat(index)), pairs, dtype, fingerprint)


def import_dataset(
    folder: str | Path, dataset: str | Path, dtype: DTypeLike = "float32", fingerprint: str | None = None
) -> None:
    """Imports a dataset with the columns title, text and embeddings, written by `save_to_disk` of `datasets`.

    Raises:
      FileNotFoundError, TensorFileError, ValueError: see `SavedDataset`.
    """
    saved = SavedDataset(dataset)
    write_folder(folder, saved.embeddings(), saved.passages(), dtype, fingerprint)


def import_legacy(
    folder: str | Path, legacy: str | Path, dtype: DTypeLike = "float32", fingerprint: str | None = None
) -> None:
    """Imports vectors and passages of a folder of the reference's `LegacyIndex` as an exact index; requires faiss.

    Reference: transformers/models/rag/retrieval_rag.py, `LegacyIndex` (docs/parity.md, A13). The vectors are as
    accurate as the graph stores them (8 bits per number), without the dimension that DPR adds. To search approximately,
    as the reference does, use `FaissIndex.load(legacy / LEGACY_GRAPH, width=768)` and `legacy_passages(legacy)`. Only
    open a graph that you trust: faiss is not hardened against malicious files.

    Raises:
      FileNotFoundError: one of the three files does not exist.
      ValueError: different numbers of ids and vectors; and see `legacy_passages`.
    """
    legacy = Path(legacy)
    loaded = FaissIndex.load(legacy / LEGACY_GRAPH)
    graph = FaissIndex(loaded.index, loaded.width - 1)
    ids = (np.arange(i, min(i + DECODE_ROWS, graph.size)) for i in range(0, graph.size, DECODE_ROWS))
    write_folder(folder, map(graph.vectors, ids), legacy_passages(legacy), dtype, fingerprint)


class Passage(NamedTuple):
    """A row of a passages table."""

    id: str
    title: str
    text: str


def read_passages_tsv(path: str | Path) -> Iterator[Passage]:
    """Reads a table such as DPR's psgs_w100.tsv or .tsv.gz: tab-separated, quoted as CSV, header id, text, title.

    Raises:
      ValueError: the header lacks one of these columns, or a line has another number of columns than the header.
    """
    path = Path(path)
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t")
        try:
            header = next(lines, [])
            if not {"id", "title", "text"} <= set(header):
                raise ValueError(f"{path}: expected a header with id, text and title, got {brief(header)}")
            order = [header.index(name) for name in Passage._fields]
            for cells in lines:
                if len(cells) != len(header):
                    raise ValueError(f"{path}, line {lines.line_num}: expected {len(header)} columns, got {len(cells)}")
                yield Passage(*(cells[column] for column in order))
        except (csv.Error, EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, after line {lines.line_num}: {error}; download or write it again") from None


def read_faiss_flat(path: str | Path) -> np.ndarray:
    """Memory-maps the vectors [N, D] float32 of a faiss IndexFlatIP; does not require faiss.

    Raises:
      TensorFileError: another type of index, or a truncated file. An index of L2 distances is refused, because inner
        products rank its vectors differently.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(FLAT_HEADER.size)
    fourcc = head[:4]
    if fourcc not in (b"IxFI", b"IxFl", b"IxF2") or len(head) < FLAT_HEADER.size:
        remedy = "open other types with FaissIndex.load"
        raise TensorFileError(path, "an IndexFlatIP written by faiss.write_index", f"{fourcc!r} at its start", remedy)
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
    """A folder written by `datasets.Dataset.save_to_disk`, read with pyarrow, memory-mapped.

    Raises:
      FileNotFoundError: there is no dataset.
      ValueError: a dataset with several splits, or a selection from another dataset.
      TensorFileError: a damaged file.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        splits = self.folder / "dataset_dict.json"
        if splits.is_file():
            names = _read_description(splits).get("splits")
            listed = ", ".join(map(str, names)) if isinstance(names, list) else "without names"
            raise ValueError(f"{self.folder} contains the splits {listed:.200}; pass the folder of one of them")
        state = self.folder / "state.json"
        if not state.is_file():
            raise FileNotFoundError(f"no dataset in {self.folder}: expected state.json, as written by save_to_disk")
        description = _read_description(state)
        if description.get("_indices_data_files") or description.get("_indices_files"):
            raise ValueError(f"{self.folder} is a selection from another dataset: save flatten_indices() of it instead")
        files = description.get("_data_files")
        entries = files if isinstance(files, list) else []
        names = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries]
        if not names or not all(map(is_plain_filename, names)):
            raise TensorFileError(state, "`_data_files`, a list of files in its folder", describe(files)[:100])
        self.files = [self.folder / name for name in names]

    def embeddings(self, column: str = "embeddings") -> Iterator[np.ndarray]:
        """Yields embeddings [n, D] float32, batch by batch.

        Raises:
          ValueError: the column does not hold numbers, or its lists are missing or differ in length.
        """
        for [cells] in self._batches((column,)):
            if not _holds_numbers(cells.type):
                raise ValueError(f"{self.folder}: {column!r} must contain lists of numbers, got {cells.type}")
            values = cells.flatten()
            lengths = (
                np.diff(cells.offsets.to_numpy()) if hasattr(cells, "offsets") else np.array([cells.type.list_size])
            )
            if cells.null_count or values.null_count or len(set(lengths.tolist())) > 1 or not lengths[0]:
                raise ValueError(f"{self.folder}: the lists in {column!r} are missing, empty or of different lengths")
            rows = values.to_numpy(zero_copy_only=False)
            yield rows.astype(np.float32).reshape(len(cells), -1)

    def passages(self, title: str = "title", text: str = "text") -> Iterator[tuple[str, str]]:
        """Yields (title, text); raises ValueError if one of the columns does not contain strings."""
        arrow = pyarrow()
        for columns in self._batches((title, text)):
            for name, column in zip((title, text), columns, strict=True):
                if column.type not in (arrow.string(), arrow.large_string()):
                    raise ValueError(f"{self.folder}: {name!r} must contain strings, got {column.type}")
            yield from zip(*(column.to_pylist() for column in columns), strict=True)

    def _batches(self, columns: tuple[str, ...]) -> Iterator[list[Any]]:
        """Yields the columns of each batch, fully validated, since there is no digest to check them against."""
        arrow = pyarrow()
        for path in self.files:
            try:
                file = open_file(path)
                with open_stream(map_file(file)) as reader:
                    names = reader.schema.names
                    if missing := [name for name in columns if names.count(name) != 1]:
                        listed = ", ".join(names)
                        raise ValueError(f"{path}: no column {missing[0]!r}; the columns are {listed:.200}")
                    while (batch := _read_batch(file, reader, columns)) is not None:
                        if len(batch[0]):
                            yield batch
            except (arrow.ArrowException, OSError, UnicodeError) as error:
                raise TensorFileError(path, "a complete Arrow stream", str(error)[:200]) from None


def _read_batch(file: OpenedFile, reader: Any, columns: tuple[str, ...]) -> list[Any] | None:
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


def _read_description(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path, "a description of a dataset")
    except FormatError as error:
        raise error.at(path) from None


def _holds_numbers(arrow_type: Any) -> bool:
    types = pyarrow().types
    is_list = types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)
    return is_list and (types.is_floating(arrow_type.value_type) or types.is_integer(arrow_type.value_type))
