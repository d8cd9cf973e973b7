"""Opens one checkpoint file, whatever its format."""

import os
from pathlib import Path
from types import ModuleType

from . import flax_names, msgpack_file, safetensors_file, torch_file
from .entry import TensorEntry
from .errors import SAVE_AGAIN, Malformed
from .opened import OpenedFile

FORMATS = {
    ".safetensors": safetensors_file,
    ".msgpack": msgpack_file,
    ".bin": torch_file,
    ".pt": torch_file,
    ".pth": torch_file,
}
LFS_POINTER = b"version https://git-lfs"


def open_tensors(path: str | os.PathLike) -> dict[str, TensorEntry]:
    """The tensors of one .safetensors, .bin, .pt, .pth or .msgpack file, by their torch names. Reads no tensor data.

    A file with another suffix is opened by its first bytes. Raises TensorFileError for a broken, hostile or unsupported
    file, OSError where there is none.
    """
    path = Path(path)
    try:
        entries = read_stored(path)
        return flax_names.to_torch(entries) if path.suffix == ".msgpack" else entries
    except Malformed as error:
        raise error.at(path) from None


def read_stored(path: Path) -> dict[str, TensorEntry]:
    """The tensors by the names that the file itself uses. Raises Malformed."""
    file = OpenedFile(path)
    with file.stream() as stream:
        head = stream.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise Malformed("a checkpoint", "a Git LFS pointer to it", "fetch the file itself with `git lfs pull`")
    return (FORMATS.get(path.suffix) or _by_content(head)).read_entries(file)


def _by_content(head: bytes) -> ModuleType:
    if head.startswith((torch_file.ZIP_MAGIC, torch_file.PICKLE_MAGIC)):
        return torch_file
    if head[8:9] == b"{":
        return safetensors_file
    raise Malformed(f"a file of a known kind ({', '.join(FORMATS)})", f"one that begins with {head[:8]!r}", SAVE_AGAIN)
