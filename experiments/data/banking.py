"""BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): questions of bank customers in 77 categories."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

HEADER = ["text", "category"]


class Example(NamedTuple):
    """A question and its category."""

    text: str
    category: str


def categories(folder: Path) -> list[str]:
    """Return the names in categories.json, in the order of the file.

    Raises:
      FileNotFoundError: The file does not exist.
      ValueError: It is not a JSON list of distinct names.
    """
    file = _require_file(folder / "categories.json")
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(names, list) or len(set(map(str, names))) != len(names) or not names:
        raise ValueError(f"{file}: expected a list of distinct category names, got {str(names)[:60]!r}")
    return names


def read(folder: Path, split: str) -> list[Example]:
    """Read the examples of train.csv or test.csv.

    Raises:
      FileNotFoundError: The file does not exist.
      ValueError: Wrong header, a row of another shape, an empty text, or a category that is not in categories.json. The
        message gives file and line.
    """
    file, known = _require_file(folder / f"{split}.csv"), set(categories(folder))
    examples = []
    with open(file, encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        try:
            header = next(rows, None)
            if header != HEADER:
                raise ValueError(f"{file}, line 1: the header is {','.join(HEADER)}; got {header}")
            for row in rows:
                examples.append(_example(row, known, f"{file}, line {rows.line_num}"))
        except csv.Error as error:
            raise ValueError(f"{file}, line {rows.line_num}: {error}") from None
    if not examples:
        raise ValueError(f"{file} contains no examples")
    return examples


def _example(row: list[str], known: set[str], location: str) -> Example:
    if len(row) != len(HEADER) or not row[0].strip():
        raise ValueError(f"{location}: expected a text and its category; got {row}")
    if row[1] not in known:
        raise ValueError(f"{location}: categories.json has no category {row[1]!r}")
    return Example(*row)


def _require_file(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path is the folder with the files of BANKING77")
    return file
