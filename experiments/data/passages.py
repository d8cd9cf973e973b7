"""Questions, passages and answers of tables. A passage is a text, a pair of title and text, or an object with both."""

from collections.abc import Mapping
from typing import Any

from . import tables
from .retrieval import Collection, Passage, Question


def passage(value: Any, name: str, location: str) -> Passage:
    """Return a passage from a value of a table: a text, [title, text], or {"title": ..., "text": ...}.

    Raises:
      ValueError: Another value, or an empty text. The message gives the location.
    """
    parts = value
    if isinstance(value, str):
        parts = ["", value]
    elif isinstance(value, dict) and "text" in value:
        parts = [value.get("title") or "", value["text"]]
    if not isinstance(parts, list) or list(map(type, parts)) != [str, str] or not parts[1].strip():
        raise ValueError(
            f'{location}: {name} has passages, each a text, [title, text] or {{"title": ..., "text": ...}}; '
            f"got {value!r:.60}"
        )
    return Passage(*parts)


def passages(value: Any, name: str, location: str) -> list[Passage]:
    """Return the passages of a list.

    Raises:
      ValueError: No list, or one of its values is no passage.
    """
    if not isinstance(value, list):
        raise ValueError(f"{location}: {name} is a list of passages, got {value!r:.60}")
    return [passage(each, name, location) for each in value]


def answers(value: Any, location: str) -> list[str]:
    """Return the answers to a question: a text, a list of texts, or SQuAD's object with one.

    Raises:
      ValueError: Another value, or no answer. The message gives the location.
    """
    texts = value.get("text") if isinstance(value, dict) else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{location}: answers is a text or a list of texts, at least one, got {value!r:.60}")
    return texts


def read_questions(source: str, columns: Mapping[str, str]) -> Collection:
    """Read a table with the columns question, passage and answers; questions about a passage are in the same split.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: No rows, a column that a row lacks, or a value of another kind. The message gives the location.
    """
    table, found = tables.read(source, columns), Collection()
    rows = zip(
        table.texts("question"), table.columns["passage"], table.columns["answers"], table.locations, strict=True
    )
    for question, value, correct, location in rows:
        about = passage(value, "passage", location)
        index = found.add_passage(about)
        distinct = tuple(dict.fromkeys(answers(correct, location)))
        found.questions.append(Question(about.title or about.text, question, distinct, (index,)))
    return found
