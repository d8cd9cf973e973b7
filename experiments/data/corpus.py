"""Texts to train on, each with the group that is held out together: source code, English, a folder, JSON lines."""

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.data import english


class Document(NamedTuple):
    """A text and the name of its group; a group is held out as a whole."""

    group: str
    text: str


def read(kind: str, path: str = "", field: str = "text") -> Iterator[Document]:
    """The documents of a corpus, in an order that depends on nothing but their names.

    Args:
      kind: "stdlib": this Python's standard library. "english": what `experiments.data.english` finds in the folder
        `path`. "text": every UTF-8 file in the folder `path`, each a group. "jsonl": every line of every .jsonl file
        in the folder `path`, or of the one file, each a group.
      field: the key of a JSON line's text.

    Raises:
      ValueError: an unknown kind, a line that is not such a JSON object, or no document at all.
      FileNotFoundError: there is nothing at `path`.
    """
    if kind not in _READERS:
        raise ValueError(f"data.kind is one of {', '.join(_READERS)}; got {kind!r}")
    root = Path(sysconfig.get_paths()["stdlib"]) if kind == "stdlib" else Path(path)
    if kind != "stdlib" and not (path and root.exists()):
        raise FileNotFoundError(f"data.kind is {kind!r}, and there is nothing at data.path={path!r}")
    empty = True
    for document in _READERS[kind](root, field):
        empty = False
        yield document
    if empty:
        raise ValueError(f"no document of kind {kind!r} in {root}")


def held_out(group: str, fraction: float) -> bool:
    """Whether the group is for validation: about `fraction` of all groups, the same ones on every machine."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def module(file: Path) -> str:
    """The group of a file of the standard library: its top-level module.

    A module's tests quote it, and `_pydecimal` copies `decimal`: they must not be on both sides of the split.
    """
    parts = file.with_suffix("").parts
    name = parts[1] if parts[0] == "test" and len(parts) > 1 else parts[0]
    return name.removeprefix("test_").removeprefix("_py").lstrip("_")


def _stdlib(root: Path, _field: str) -> Iterator[Document]:
    for file in _files(root, "*.py"):
        inside = file.relative_to(root)
        if inside.parts[0] not in _NOT_READ:
            yield from _document(module(inside), file)


def _texts(root: Path, _field: str) -> Iterator[Document]:
    for file in _files(root, "*"):
        yield from _document(str(file.relative_to(root)), file)


def _english(root: Path, _field: str) -> Iterator[Document]:
    return (Document(*entry) for entry in english.read(root))


def _json_lines(root: Path, field: str) -> Iterator[Document]:
    for file in [root] if root.is_file() else _files(root, "*.jsonl"):
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield Document(f"{file.name}:{number}", _field_of(line, field, f"{file}, line {number}"))


def _field_of(line: str, field: str, place: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{place}: no text under data.field={field!r}; it has {keys}")
    return entry[field]


def _files(root: Path, pattern: str) -> list[Path]:
    return sorted(file for file in root.rglob(pattern) if file.is_file())


def _document(group: str, file: Path) -> Iterator[Document]:
    """Nothing where the file is not UTF-8: the standard library tests its decoders with such files."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return
    if text:
        yield Document(group, text)


# Other people's packages, and generated tables of characters.
_NOT_READ = ("site-packages", "dist-packages", "encodings")

_READERS = {"stdlib": _stdlib, "english": _english, "text": _texts, "jsonl": _json_lines}
