"""Long documents with queries and their summaries: QMSum (Zhong et al. 2021, arXiv:2104.05938), and plain JSON lines."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.retrieval import part, parts, read_line


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


def read(file: Path) -> Collection:
    """A meeting in each line; its general and specific queries are the requests. Turns without a word are left out.

    Raises:
      ValueError: the file is not of this form, or has nothing in it; says where.
    """
    found = Collection()
    for place, meeting in _lines(file):
        number = len(found.documents)
        said = parts(meeting, "meeting_transcripts", place)
        turns = ((part(t, "speaker", str, p), part(t, "content", _ANY, p)) for p, t in said)
        found.documents.append(_turns(turns, place))
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
        found.documents.append(_turns((("", " ".join(paragraph.split())) for paragraph in paragraphs), place))
        found.requests.append(Request(len(found.documents) - 1, query, part(entry, "summary", str, place).strip()))
    return _checked(found, file)


_ANY = object  # a content may be empty


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give the place of the .jsonl file")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        yield f"{file}, line {number}", read_line(line, f"{file}, line {number}")


def _turns(turns, place: str) -> tuple[Turn, ...]:
    kept = tuple(Turn(speaker, text.strip()) for speaker, text in turns if text.strip())
    if not kept:
        raise ValueError(f"{place}: no turn has a word in it")
    return kept


def _checked(found: Collection, file: Path) -> Collection:
    if not found.requests:
        raise ValueError(f"{file} has no queries with summaries in it")
    return found
