"""Long documents, queries and summaries: meetings of QMSum (Zhong et al. 2021, arXiv:2104.05938), or JSON lines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from .retrieval import require, require_list


class Turn(NamedTuple):
    """An utterance of a speaker, or a paragraph of a document, without a speaker."""

    speaker: str
    text: str

    def __str__(self) -> str:
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


class Request(NamedTuple):
    """A query about a document, given by its index, and the summary that answers it."""

    document: int
    query: str
    summary: str


@dataclass
class Collection:
    """Documents as lists of turns, and requests."""

    documents: list[tuple[Turn, ...]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def text(self, document: int) -> str:
        """Return a document with one turn per line."""
        return "\n".join(map(str, self.documents[document]))

    def subset(self, count: int) -> Self:
        """Return all documents with at most `count` requests, evenly spaced."""
        indices = np.linspace(0, len(self.requests) - 1, min(count, len(self.requests))).astype(int)
        return type(self)(self.documents, [self.requests[index] for index in indices])


def read(file: Path) -> Collection:
    """Read a JSON lines file with a meeting per line; its general and specific queries are the requests.

    Empty turns are skipped.

    Raises:
      ValueError: The file has another format, or is empty; the message gives the location.
    """
    found = Collection()
    for location, meeting in _lines(file):
        number = len(found.documents)
        turns = (_turn(turn, p) for p, turn in require_list(meeting, "meeting_transcripts", location))
        found.documents.append(_non_empty(turns, location))
        for name in ("general_query_list", "specific_query_list"):
            for query_location, query in require_list(meeting, name, location):
                text, answer = (require(query, field, str, query_location) for field in ("query", "answer"))
                found.requests.append(Request(number, text.strip(), answer.strip()))
    return _non_empty_collection(found, file)


def read_documents(file: Path, query: str) -> Collection:
    """Read JSON lines {"document", "summary"}; all requests have the same query.

    Raises:
      ValueError: As for `read`.
    """
    found = Collection()
    for location, entry in _lines(file):
        paragraphs = require(entry, "document", str, location).split("\n\n")
        turns = (Turn("", " ".join(paragraph.split())) for paragraph in paragraphs)
        found.documents.append(_non_empty(turns, location))
        found.requests.append(
            Request(len(found.documents) - 1, query, require(entry, "summary", str, location).strip())
        )
    return _non_empty_collection(found, file)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location, entry) for each line."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; expected the path of a .jsonl file")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        location = f"{file}, line {number}"
        try:
            yield location, json.loads(line)
        except ValueError as error:
            raise ValueError(f"{location}: not JSON: {error}") from None


def _turn(entry: Any, location: str) -> Turn:
    text = require(entry, "content", object, location)
    if not isinstance(text, str):
        raise ValueError(f"{location}: 'content' is a string, got {text!r:.60}")
    return Turn(require(entry, "speaker", str, location), text.strip())


def _non_empty(turns: Iterator[Turn], location: str) -> tuple[Turn, ...]:
    found = tuple(turn for turn in turns if turn.text)
    if not found:
        raise ValueError(f"{location}: all turns are empty")
    return found


def _non_empty_collection(found: Collection, file: Path) -> Collection:
    if not found.requests:
        raise ValueError(f"{file} has no queries with summaries")
    return found
