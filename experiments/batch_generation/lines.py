"""The job's input: JSON lines, each with a prompt; whatever else a line holds goes through to the output."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADDED = ("text", "texts", "score", "scores")  # fields of the output
NAMED = 20  # bad lines that are listed; the others are counted


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
      number: counted from 1. fields: the line's own, with its id.
    """

    number: int
    fields: dict[str, Any]

    @property
    def id(self) -> str | int:
        """What the line is recognised by: its field "id", or else its number."""
        return self.fields["id"]


def read(file: Path) -> tuple[list[Line], list[str]]:
    """The good lines, and what is wrong with each of the others.

    Raises:
      FileNotFoundError: no such file. ValueError: it has no lines.
    """
    lines, problems, first = [], [], {}
    with file.open("rb") as raw:
        for number, content in enumerate(raw, 1):
            try:
                line = Line(number, _fields(content, number))
                if line.id in first:
                    raise ValueError(f"its id {line.id!r} is that of line {first[line.id]}, too")
            except ValueError as problem:
                problems.append(f"line {number}: {problem}")
                continue
            first[line.id] = number
            lines.append(line)
    if not lines and not problems:
        raise ValueError(f'{file} has no lines; each is to be {{"prompt": "..."}}')
    return lines, problems


def refuse(file: Path, problems: list[str]) -> None:
    """Raises ValueError with all that is wrong, if anything is."""
    if problems:
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        listed = "\n  ".join([*problems[:NAMED], *more])
        raise ValueError(f"{file} has lines that cannot be used; nothing has been generated:\n  {listed}")


def _fields(content: bytes, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except ValueError as error:  # of the JSON or of the UTF-8
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON object is expected, got {type(fields).__name__}")
    for name in ("prompt", "query"):
        if not isinstance(fields.get(name, "" if name == "query" else None), str):
            raise ValueError(f'"{name}" is a text, got {json.dumps(fields.get(name))}')
    if taken := [name for name in ADDED if name in fields]:
        raise ValueError(f'the field "{taken[0]}" would be overwritten by the result; rename it')
    name = fields.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f'"id" is a text or a whole number, got {json.dumps(name)}')
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    return {"id": name, **fields}
