"""Named entities in CoNLL's columns: a word, a tab and its tag per line, an empty line after each sentence."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TAG = re.compile(r"O|[BI]-\S+")


class Sentence(NamedTuple):
    """Words and as many tags: O, B-type where an entity begins, I-type inside of it."""

    words: list[str]
    tags: list[str]


def read(file: Path) -> list[Sentence]:
    """The sentences of a file in UTF-8.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line that is not word, tab, tag; a tag that is none; a file without a sentence. Names file and line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path names the folder of WNUT-17's files")
    sentences, words, tags = [], [], []
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
        raise ValueError(f"{file} holds no sentence")
    return sentences


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    # Tweets hold characters that Python too takes for line ends; only \n ends a line here.
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}, line {number}: not UTF-8: {error}") from None


def _columns(line: str, before: str, place: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 2 or not columns[0].strip():
        raise ValueError(f"{place}: a line is a word, a tab and its tag; got {line!r}")
    word, tag = columns
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{place}: a tag is O, B-type or I-type; got {tag!r}")
    if tag[0] == "I" and before[2:] != tag[2:]:
        raise ValueError(f"{place}: {tag} continues an entity, but the word before has {before}")
    return word, tag
