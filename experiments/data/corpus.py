"""Documents to pretrain on, each with a group that is held out as a whole: source code, English text, JSON lines."""

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import banking, conll


class Document(NamedTuple):
    """A text and the name of its group; groups are held out as a whole."""

    group: str
    text: str


def read(kind: str, path: str = "", field: str = "text") -> Iterator[Document]:
    """Iterate over the documents of a corpus, in an order that depends on their names only.

    Args:
      kind: "stdlib": the standard library of this Python. "english": the documents that `read_english` finds in the
      folder
        `path`. "text": every UTF-8 file in the folder `path`; each one is a group. "jsonl": every line of every .jsonl
        file in the folder `path`, or of that one file; each line is a group.
      path: The file or folder.
      field: The key of the text in a JSON line.

    Raises:
      ValueError: Unknown kind, a line that is not such a JSON object, or no documents.
      FileNotFoundError: `path` does not exist.
    """
    if kind not in _READERS:
        raise ValueError(f"data.kind is one of {', '.join(_READERS)}; got {kind!r}")
    root = Path(sysconfig.get_paths()["stdlib"]) if kind == "stdlib" else Path(path)
    if kind != "stdlib" and not (path and root.exists()):
        raise FileNotFoundError(f"data.kind is {kind!r}, but data.path={path!r} does not exist")
    empty = True
    for document in _READERS[kind](root, field):
        empty = False
        yield document
    if empty:
        raise ValueError(f"no documents of kind {kind!r} in {root}")


def held_out(group: str, fraction: float) -> bool:
    """Return whether the group is held out: about `fraction` of all groups, the same ones on every machine."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def module(file: Path) -> str:
    """Return the group of a file of the standard library: its top-level module.

    Tests quote the module that they test, and `_pydecimal` is a copy of `decimal`: they must be in the same split.
    """
    parts = file.with_suffix("").parts
    name = parts[1] if parts[0] == "test" and len(parts) > 1 else parts[0]
    return name.removeprefix("test_").removeprefix("_py").lstrip("_")


def _stdlib(root: Path, _field: str) -> Iterator[Document]:
    for file in _files(root, "*.py"):
        inside = file.relative_to(root)
        if inside.parts[0] not in _SKIPPED:
            yield from _document(module(inside), file)


def _texts(root: Path, _field: str) -> Iterator[Document]:
    for file in _files(root, "*"):
        yield from _document(str(file.relative_to(root)), file)


def _english(root: Path, _field: str) -> Iterator[Document]:
    return (Document(*entry) for entry in read_english(root))


def _json_lines(root: Path, field: str) -> Iterator[Document]:
    for file in [root] if root.is_file() else _files(root, "*.jsonl"):
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield Document(f"{file.name}:{number}", _field_of(line, field, f"{file}, line {number}"))


def _field_of(line: str, field: str, location: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{location}: not JSON: {error}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{location}: expected a text under data.field={field!r}; got {keys}")
    return entry[field]


def _files(root: Path, pattern: str) -> list[Path]:
    return sorted(file for file in root.rglob(pattern) if file.is_file())


def _document(group: str, file: Path) -> Iterator[Document]:
    """Yield the document, or nothing if the file is not UTF-8: the standard library has such files to test decoders."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return
    if text:
        yield Document(group, text)


# Third-party packages, and generated tables of characters.
_SKIPPED = ("site-packages", "dist-packages", "encodings")

_READERS = {"stdlib": _stdlib, "english": _english, "text": _texts, "jsonl": _json_lines}


def read_english(root: Path) -> Iterator[tuple[str, str]]:
    """Iterate over English documents as (group, text); a group is an article, or an example of a task.

    The documents are articles of WikiText-2, paragraphs of SQuAD, and the training texts, without labels, of two tasks.
    The latter are included because pretraining helps a task most if the texts are of the same domain (Gururangan et al.
    2020, "Don't Stop Pretraining", arXiv:2004.10964).

    Raises:
      FileNotFoundError: `root` lacks one of the files.
      ValueError: A file is damaged.
    """
    for name in ("valid", "test"):
        yield from _wikitext(_require_file(root / "text" / "wikitext-2" / f"{name}.txt"))
    yield from _squad_articles(_require_file(root / "qa" / "squad" / "dev-v1.1.rebuilt.json"))
    for sentence in conll.read(root / "ner" / "wnut17" / "wnut17train.conll"):
        text = " ".join(sentence.words)
        yield f"wnut17:{text}", text
    for example in banking.read(root / "classification" / "banking77", "train"):
        yield f"banking77:{example.text}", example.text


def _wikitext(file: Path) -> Iterator[tuple[str, str]]:
    """Split WikiText into articles, which begin with a title between single equals signs."""
    parts = re.split(r"^ (= [^=\n]+ =) $", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield f"wikitext:{title}", _plain(title + body)


def _plain(text: str) -> str:
    """Undo WikiText's tokenization of numbers and compounds, and drop unknown words."""
    return re.sub(r" ?<unk>", "", re.sub(r" @(.)@ ", r"\1", text))


def _squad_articles(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each paragraph followed by its questions; the group is the article."""
    try:
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                questions = [entry["question"] for entry in paragraph["qas"]]
                yield f"squad:{article['title']}", "\n".join([paragraph["context"], *questions])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not SQuAD's JSON (data, paragraphs, context, qas, question): {error!r}") from error


def _require_file(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path is the folder that contains text/ and qa/")
    return file
