"""BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): customers' questions to a bank, and which of 77 they are."""

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
    """The names of categories.json, in its order.

    Raises:
      FileNotFoundError: the file is not there.
      ValueError: it is not a JSON list of different names.
    """
    file = _existing(folder / "categories.json")
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(names, list) or len(set(map(str, names))) != len(names) or not names:
        raise ValueError(f"{file}: expected a list of different category names, got {str(names)[:60]!r}")
    return names


def read(folder: Path, split: str) -> list[Example]:
    """The examples of train.csv or test.csv.

    Raises:
      FileNotFoundError: the file is not there.
      ValueError: another header, a row of another shape, an empty text, a category that categories.json lacks. Names
        file and line.
    """
    file, known = _existing(folder / f"{split}.csv"), set(categories(folder))
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
        raise ValueError(f"{file} holds no example")
    return examples


def _example(row: list[str], known: set[str], place: str) -> Example:
    if len(row) != len(HEADER) or not row[0].strip():
        raise ValueError(f"{place}: a row is a text and its category; got {row}")
    if row[1] not in known:
        raise ValueError(f"{place}: categories.json has no category {row[1]!r}")
    return Example(*row)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path names the folder of BANKING77's files")
    return file
