"""Tables of examples: CSV, JSON lines, Parquet, texts, CoNLL, SQuAD's JSON, and data sets of Hugging Face.

Every reader yields rows one at a time, so that only the chosen columns are held in memory.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ..data import conll, hub_datasets
from .retrieval import read_json, require, require_list

Row: TypeAlias = Mapping[str, Any]
# Names of the classes of a column, where its numbers are indices of them.
ClassNames: TypeAlias = Mapping[str, Sequence[str]]
# A file or folder, a data set of the Hub by name, or a Dataset or IterableDataset of the package `datasets`.
Source: TypeAlias = Any


@dataclass(frozen=True)
class Table:
    """The chosen columns of a file or folder.

    Attributes:
      source: The file or folder, or the name of the data set.
      columns: Values of each column, under the name that the task has for it.
      locations: Where each row is, for messages.
      class_names: The names of the classes of a column, in the order of the data set, where it has such names.
    """

    source: str
    columns: dict[str, list[Any]]
    locations: list[str]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.locations)

    def texts(self, name: str) -> list[str]:
        """Return a column of texts.

        Raises:
          ValueError: A value is no text. The message gives its location.
        """
        for value, location in zip(self.columns[name], self.locations, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{location}: {name} is a text, got {value!r:.60}")
        return self.columns[name]

    def lists(self, name: str) -> list[list[Any]]:
        """Return a column of lists.

        Raises:
          ValueError: A value is no list, or an empty one. The message gives its location.
        """
        for value, location in zip(self.columns[name], self.locations, strict=True):
            if not isinstance(value, list) or not value:
                raise ValueError(f"{location}: {name} is a list with at least one element, got {value!r:.60}")
        return self.columns[name]

    def select(self, rows: Sequence[int]) -> "Table":
        """Return some of the rows."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.source, columns, [self.locations[row] for row in rows], self.class_names)


def read(source: Source, columns: Mapping[str, str], streaming: bool = False) -> Table:
    """Read columns of a file, of all texts in a folder, or of a data set of Hugging Face.

    Args:
      source: A file .csv, .tsv, .jsonl, .json (JSON lines, a list of objects, or SQuAD's format), .parquet, .conll or
        .txt; a folder of .txt files, each of which is a row with a "text"; a folder of `Dataset.save_to_disk`; a data
        set as `hub_datasets.load` names it; or an object of `datasets`.
      columns: The column of each name by which the task refers to it, or several ones separated by commas, which make a
        list; "" for those that it does without.
      streaming: Do not download a data set of the Hub first.

    Raises:
      FileNotFoundError, ConnectionError: There is no such file or folder, or the Hub cannot be reached.
      ValueError: An unknown or damaged file, no rows, or a column that a row lacks. The message gives the location.
    """
    return table(source, *rows(source, opened(source, streaming)), columns)


def opened(source: Source, streaming: bool) -> Any:
    """Return the path of a file or folder, or the object of `datasets`; see `read`."""
    if not isinstance(source, str | Path):
        if not hasattr(source, "features"):
            raise TypeError(
                "data is the name of a file or data set, or a Dataset or IterableDataset of datasets (one split of a "
                f"DatasetDict), got {type(source).__name__}"
            )
        return source
    if hub_datasets.is_named(str(source)):
        return hub_datasets.load(str(source), streaming)
    if not Path(source).exists():
        raise FileNotFoundError(
            f"there is no file or folder {source}; a data set of the Hugging Face Hub is named ID:SPLIT or "
            "ID:CONFIG:SPLIT, such as stanfordnlp/imdb:train"
        )
    return Path(source)


def rows(source: Source, content: Any) -> "Rows":
    """Return an iterator over (location, row), and the names of classes; content: of `opened`."""
    if isinstance(content, Path):
        return _reader(content)(content)
    located = ((f"{name_of(source)}, row {number}", row) for number, row in enumerate(content, start=1))
    return located, {} if content.features is None else _class_names(content.features.arrow_schema)


def name_of(source: Source) -> str:
    """Return the name of a source in messages and logs."""
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def table(
    source: Source, located: Iterator[tuple[str, Row]], class_names: ClassNames, columns: Mapping[str, str]
) -> Table:
    """Return the columns of rows; see `read`.

    Raises:
      ValueError: No rows, a column that a row lacks, or a number that is no class.
    """
    wanted = {name: column for name, column in columns.items() if column}
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    locations = []
    for location, row in located:
        for name, column in wanted.items():
            parts = column.split(",")
            if missing := [part for part in parts if part not in row]:
                raise ValueError(
                    f"{location}: there is no {missing[0]!r}; it has {', '.join(map(repr, row)) or 'nothing'}. Set "
                    f"--config.columns.{name} to the column of the {name}"
                )
            values[name].append([row[part] for part in parts] if len(parts) > 1 else row[column])
        locations.append(location)
    if not locations:
        raise ValueError(f"{name_of(source)} has no rows")
    found = Table(name_of(source), values, locations)
    for name, column in wanted.items():
        if column in class_names:
            names = tuple(class_names[column])
            found.columns[name][:] = [
                _named(value, names, where) for value, where in zip(values[name], locations, strict=True)
            ]
            found.class_names[name] = names
    return found


def _named(value: Any, names: Sequence[str], location: str) -> Any:
    """Return the names for class numbers, which may be in a list."""
    if isinstance(value, list):
        return [_named(each, names, location) for each in value]
    if value not in range(len(names)):
        raise ValueError(
            f"{location}: class {value!r} is not among 0 to {len(names) - 1} ({', '.join(names):.200}); remove such "
            "rows, which are often unlabelled"
        )
    return names[value]


Rows: TypeAlias = tuple[Iterator[tuple[str, Row]], ClassNames]


def _reader(path: Path) -> Callable[[Path], Rows]:
    if path.is_dir():
        if (path / "dataset_dict.json").exists():
            splits = ", ".join(sorted(child.name for child in path.iterdir() if child.is_dir()))
            raise ValueError(f"{path} contains several splits; pass one of its folders: {splits}")
        return _saved_dataset if (path / "state.json").exists() else _text_folder
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: expected a folder or a file {', '.join(_READERS)}")
    return _READERS[path.suffix]


def _csv(path: Path) -> Rows:
    return _separated(path, "\t" if path.suffix == ".tsv" else ","), {}


def _separated(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(_decoded(stream, path), delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            for row in lines:
                location = f"{path}, line {lines.line_num}"
                if len(row) != len(header):
                    raise ValueError(f"{location}: expected {len(header)} values ({', '.join(header)}), got {len(row)}")
                yield location, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None


def _json_lines(path: Path) -> Rows:
    def rows() -> Iterator[tuple[str, Row]]:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(_decoded(stream, path), start=1):
                location = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{location}: not JSON: {error}") from None
                yield location, _object(row, location)

    return rows(), {}


def _json(path: Path) -> Rows:
    """Read a list of objects, SQuAD's format, or JSON lines."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return _json_lines(path)
    if isinstance(content, dict):
        return (_squad(path) if "data" in content else _json_lines(path)[0]), {}
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of objects, got {type(content).__name__}")
    located = ((f"{path}, [{index}]", row) for index, row in enumerate(content))
    return ((location, _object(row, location)) for location, row in located), {}


def _squad(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield a row for each question of SQuAD's JSON, with the columns of the data set on the Hub."""
    for at_article, article in require_list(read_json(path), "data", str(path)):
        for at_paragraph, paragraph in require_list(article, "paragraphs", at_article):
            context = require(paragraph, "context", str, at_paragraph)
            for location, entry in require_list(paragraph, "qas", at_paragraph):
                answers = [] if entry.get("is_impossible") else list(require_list(entry, "answers", location))
                yield (
                    location,
                    {
                        "question": require(entry, "question", str, location),
                        "context": context,
                        "answers": {
                            "text": [require(answer, "text", str, where) for where, answer in answers],
                            "answer_start": [require(answer, "answer_start", int, where) for where, answer in answers],
                        },
                    },
                )


def _parquet(path: Path) -> Rows:
    pyarrow = _pyarrow(path)
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file: {error}") from None
    return _batches(path, file.iter_batches()), _class_names(file.schema_arrow)


def _saved_dataset(path: Path) -> Rows:
    """Read the Arrow streams of `Dataset.save_to_disk`, without the package `datasets`."""
    pyarrow = _pyarrow(path)
    files = [path / entry["filename"] for entry in read_json(path / "state.json")["_data_files"]]
    if not files:
        raise ValueError(f"{path} has no rows")
    try:
        streams = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) for file in files]
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path} is no complete data set: {error}") from None
    return _batches(path, (batch for stream in streams for batch in stream)), _class_names(streams[0].schema)


def _batches(path: Path, batches: Iterator[Any]) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def _class_names(schema: Any) -> ClassNames:
    """Return the names of the classes that `datasets` stores beside an Arrow schema."""
    stored = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(stored)["info"]["features"] if stored else {}
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if inner.get("_type") == "ClassLabel":
            found[column] = inner["names"]
    return found


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow
    except ImportError:
        raise ValueError(f"{path} can only be read with pyarrow: pip install 'jaxmodels[retrieval]'") from None
    return pyarrow


def _text_folder(path: Path) -> Rows:
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise ValueError(f"{path} is neither a folder of .txt files nor a data set saved by datasets.save_to_disk")
    return (row for file in files for row in _text(file)[0]), {}


def _text(path: Path) -> Rows:
    try:
        return iter([(str(path), {"text": path.read_bytes().decode("utf-8")})]), {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None


def _conll(path: Path) -> Rows:
    rows = ({"tokens": sentence.words, "tags": sentence.tags} for sentence in conll.read(path))
    return ((f"{path}, sentence {number}", row) for number, row in enumerate(rows, start=1)), {}


def _object(row: Any, location: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{location}: expected an object with the columns as keys, got {row!r:.60}")
    return row


def _decoded(lines: Iterator[str], path: Path) -> Iterator[str]:
    """Yield lines; a file that is not UTF-8 raises ValueError with the number of lines that are."""
    number = 0
    try:
        for line in lines:
            number += 1
            yield line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8: {error}") from None


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".conll": _conll,
    ".txt": _text,
}
