"""Check that files cited by comments, docstrings and Markdown texts exist in the repository."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

PATH = re.compile(r"(?<![\w/.:*<>{}-])[\w./-]*\w\.(?:md|py|toml|yml|ipynb)\b(?!\()")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
# Citations of documents in capitals, with a section or row: no such document is in the repository.
CAPITALS = re.compile(r"\b[A-Z_]{5,}(?: section \d+| [A-Z]\d{1,2}\b)")
# Files of other projects: by folder, by naming pattern, and by name.
FOREIGN_FOLDERS = ("transformers/", "torch/", "flax/", ".../", "M/", "G/", "utils/", "scripts/", "path/to/")
FOREIGN_NAMES = re.compile(r"(tokenization|modeling|configuration|convert)_\w+\.py")
FOREIGN = {"_fast.py", "faiss_indexers.py", "generate_dense_embeddings.py", "pickletools.py", "pytorch_utils.py"}
FOREIGN |= {"activations.py", "retrieval_rag.py", "utils.py"}


class Known:
    """The files of a repository, with paths relative to its root."""

    def __init__(self, names: Iterable[str]):
        self.names = frozenset(names)
        parts = [PurePosixPath(name).parts for name in self.names]
        self.places = frozenset("/".join(each[:i]) for each in parts for i in range(1, len(each) + 1))
        self.tails = frozenset("/".join(each[i:]) for each in parts for i in range(len(each)))


def missing(text: str, folder: PurePosixPath, known: Known, *, links: bool = False) -> list[str]:
    """Return the files that a text in a folder cites and that do not exist.

    A file may be named from the repository's root, from the text's own folder, or by the last parts of its path.

    Args:
      links: the text is Markdown, so that its links have to lead to files of the folder, too.
    """
    found = []
    for name in PATH.findall(text):
        if name.startswith(FOREIGN_FOLDERS) or FOREIGN_NAMES.fullmatch(name) or name in FOREIGN:
            continue
        if name.removeprefix("./") not in known.tails and _from(folder, name) not in known.names:
            found.append(name)
    for target in LINK.findall(text) if links else ():
        if "://" not in target and _from(folder, target) not in known.places:
            found.append(target)
    return list(dict.fromkeys(found)) + CAPITALS.findall(text)


def _from(folder: PurePosixPath, name: str) -> str:
    parts: list[str] = []
    for part in (folder / name).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def relative(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(root).as_posix())
