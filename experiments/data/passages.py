"""Passages of tables: texts, pairs of title and text, or objects with both."""

from typing import Any

from .retrieval import Passage


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
