"""Named entities in CoNLL format: a word, a tab and a tag per line, and an empty line after each sentence."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TAG = re.compile(r"O|[BI]-\S+")


class Sentence(NamedTuple):
    """Words and their tags: O, B-type for the first word of an entity, I-type for its other words."""

    words: list[str]
    tags: list[str]


def read(file: Path) -> list[Sentence]:
    """Read the sentences of a UTF-8 file.

    Raises:
      FileNotFoundError: The file does not exist.
      ValueError: A line is not word, tab, tag; a tag is invalid; there are no sentences. The message gives file and
        line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path is the folder with the files of WNUT-17")
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in _lines(file):
        if line.strip():
            word, tag = _columns(line, tags[-1] if tags else "O", f"{file}, line {number}")
            words.append(word)
            tags.append(tag)
        elif words:
            sentences.append(Sentence(words, tags))
            words, tags = [], []
    if words:
        sentences.append(Sentence(words, tags))
    if not sentences:
        raise ValueError(f"{file} contains no sentences")
    return sentences


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    # Tweets contain characters that Python treats as line ends; here only \n ends a line.
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}, line {number}: not UTF-8: {error}") from None


def _columns(line: str, before: str, location: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 2 or not columns[0].strip():
        raise ValueError(f"{location}: expected a word, a tab and its tag; got {line!r}")
    word, tag = columns
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{location}: a tag is O, B-type or I-type; got {tag!r}")
    if tag[0] == "I" and before[2:] != tag[2:]:
        raise ValueError(f"{location}: {tag} continues an entity, but the previous word has {before}")
    return word, tag
