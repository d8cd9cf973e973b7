"""Passages and questions about them, from SQuAD's files, from DPR's, or from a folder of texts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Passage(NamedTuple):
    """What is searched. The title may be empty."""

    title: str
    text: str


class Question(NamedTuple):
    """A question and its passages, as places in the list of passages.

    Attributes:
      group: questions of one group are on one side of the split.
      answers: texts that answer it; empty where the data does not say.
      positives: passages that it is about, at least one; the first is trained on.
      negatives: passages that look right and are not; empty where the data names none.
    """

    group: str
    text: str
    answers: tuple[str, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()


@dataclass
class Collection:
    """All passages, each once, and all questions."""

    passages: list[Passage] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    _places: dict[Passage, int] = field(default_factory=dict, repr=False)

    def place(self, passage: Passage) -> int:
        """Where the passage is; it is put at the end if it is new."""
        if passage not in self._places:
            self._places[passage] = len(self.passages)
            self.passages.append(passage)
        return self._places[passage]


def read_json(file: Path) -> Any:
    """Raises ValueError where the file is not JSON."""
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from None


def part(entry: Any, name: str, kind: type, place: str) -> Any:
    """entry[name].

    Raises:
      ValueError: the entry is no object, or has nothing of this kind (or an empty text) under the name.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: expected an object with {name!r}, got {type(entry).__name__}")
    if name not in entry:
        raise ValueError(f"{place}: no {name!r}; it has {', '.join(map(repr, entry)) or 'nothing'}")
    value = entry[name]
    if not isinstance(value, kind) or (kind is str and not value.strip()):
        raise ValueError(f"{place}: {name!r} is a {_KINDS[kind]}, got {value!r:.60}")
    return value


def parts(entry: Any, name: str, place: str) -> Iterator[tuple[str, Any]]:
    """(place, element) of the list entry[name]."""
    for number, element in enumerate(part(entry, name, list, place)):
        yield f"{place}, {name}[{number}]", element


_KINDS = {str: "text that is not empty", list: "list", bool: "true or false"}
