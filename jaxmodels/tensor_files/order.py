"""The order of a save: a file beside the staged ones that says that all are there and what they replace.

Until the order is there a save has not happened; from then on it has, whether its files are moved into place already or
not. It comes with the folder, perhaps from a stranger, so it is believed only where a save of ours could have written
it.
"""

import json
import stat
from pathlib import Path
from typing import NamedTuple

from .errors import Malformed, described
from .file_sets import FILE_SETS, belongs, is_plain
from .safetensors_file import parse_json_object

READY, ORDER = ".saved", "order.json"
MAX_ORDER = 2**22  # a model of 50,000 shards
REMEDY = f"remove {READY}, or save into the folder again"


class Order(NamedTuple):
    """The `files` that were saved, and the `sets` that they replace (see `file_sets`)."""

    sets: tuple[str, ...]
    files: frozenset[str]

    def hides(self, name: str) -> bool:
        """Whether the save has removed a file, which may still be there."""
        return name not in self.files and belongs(name, self.sets)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"sets": self.sets, "files": sorted(self.files)}) + "\n", encoding="utf-8")


def read_order(folder: Path) -> Order | None:
    """The order of a save whose files are not all in place; None where there is none.

    Raises TensorFileError for one that no save has written.
    """
    path = folder / READY / ORDER
    try:
        if not stat.S_ISDIR((folder / READY).lstat().st_mode):
            raise Malformed("a folder", "something else", REMEDY).at(folder / READY)
        kept = path.lstat()
        if not stat.S_ISREG(kept.st_mode) or kept.st_size > MAX_ORDER:
            raise Malformed(f"a file of at most {MAX_ORDER} bytes", f"another, of {kept.st_size}", REMEDY).at(path)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _parsed(parse_json_object(data, "the order of a save"))
    except Malformed as error:
        raise Malformed(error.expected, error.found, REMEDY).at(path) from None


def _parsed(found: dict) -> Order:
    if found.keys() != {"sets", "files"}:
        raise Malformed("`sets` and `files`", ", ".join(map(described, sorted(found)[:5])) or "neither")
    sets, files = found["sets"], found["files"]
    if not isinstance(sets, list) or not all(isinstance(each, str) and each in FILE_SETS for each in sets):
        raise Malformed(f"sets of {', '.join(FILE_SETS)}", described(sets))
    if not isinstance(files, list):
        raise Malformed("a list of files", described(files))
    for name in files:
        if not is_plain(name) or not belongs(name, sets):
            raise Malformed(f"files of {', '.join(sets) or 'no set'}, by their plain names", described(name))
    return Order(tuple(sets), frozenset(files))
