"""Long documents, queries, summaries: QMSum's meetings (Zhong et al. 2021, arXiv:2104.05938), or plain JSON lines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from experiments.data.retrieval import part, parts


class Turn(NamedTuple):
    """What somebody says, or a paragraph of a document, which nobody says."""

    speaker: str
    text: str

    def __str__(self) -> str:
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


class Request(NamedTuple):
    """A query about one of the documents, given as its place among them, and the summary that answers it."""

    document: int
    query: str
    summary: str


@dataclass
class Collection:
    """Documents as their turns, and the requests."""

    documents: list[tuple[Turn, ...]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def text(self, document: int) -> str:
        """The document, a turn per line."""
        return "\n".join(map(str, self.documents[document]))

    def some(self, count: int) -> Self:
        """All documents, and at most so many of the requests, spread evenly."""
        places = np.linspace(0, len(self.requests) - 1, min(count, len(self.requests))).astype(int)
        return type(self)(self.documents, [self.requests[place] for place in places])


def read(file: Path) -> Collection:
    """A meeting in each line; its general and specific queries are the requests. Turns without a word are left out.

    Raises:
      ValueError: the file is not of this form, or has nothing in it; says where.
    """
    found = Collection()
    for place, meeting in _lines(file):
        number = len(found.documents)
        turns = (_said(turn, p) for p, turn in parts(meeting, "meeting_transcripts", place))
        found.documents.append(_with_words(turns, place))
        for kind in ("general_query_list", "specific_query_list"):
            for query_place, query in parts(meeting, kind, place):
                query, answer = (part(query, name, str, query_place) for name in ("query", "answer"))
                found.requests.append(Request(number, query.strip(), answer.strip()))
    return _checked(found, file)


def read_documents(file: Path, query: str) -> Collection:
    """A document and its summary in each line, as {"document", "summary"}; the same query asks for all of them.

    Raises:
      ValueError: as `read`.
    """
    found = Collection()
    for place, entry in _lines(file):
        paragraphs = part(entry, "document", str, place).split("\n\n")
        turns = (Turn("", " ".join(paragraph.split())) for paragraph in paragraphs)
        found.documents.append(_with_words(turns, place))
        found.requests.append(Request(len(found.documents) - 1, query, part(entry, "summary", str, place).strip()))
    return _checked(found, file)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, entry) of each line."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give the place of the .jsonl file")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        place = f"{file}, line {number}"
        try:
            yield place, json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON: {error}") from None


def _said(entry: Any, place: str) -> Turn:
    text = part(entry, "content", object, place)
    if not isinstance(text, str):
        raise ValueError(f"{place}: 'content' is a text, got {text!r:.60}")
    return Turn(part(entry, "speaker", str, place), text.strip())


def _with_words(turns: Iterator[Turn], place: str) -> tuple[Turn, ...]:
    kept = tuple(turn for turn in turns if turn.text)
    if not kept:
        raise ValueError(f"{place}: no turn has a word in it")
    return kept


def _checked(found: Collection, file: Path) -> Collection:
    if not found.requests:
        raise ValueError(f"{file} has no queries with summaries in it")
    return found
