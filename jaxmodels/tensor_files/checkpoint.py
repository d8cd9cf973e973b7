"""Opening the weights of a checkpoint: one file of any format, or a folder with a file or shards."""

import os
from collections import defaultdict
from pathlib import Path
from types import ModuleType

from . import msgpack_file, safetensors_file, torch_file
from .atomic_save import FolderSnapshot, is_plain_filename, read_snapshot
from .entry import TensorEntry, flax_to_torch
from .file_io import OpenedFile, read_json_object
from .validation import SAVE_AGAIN, FormatError, describe

FORMATS = {
    ".safetensors": safetensors_file,
    ".msgpack": msgpack_file,
    ".bin": torch_file,
    ".pt": torch_file,
    ".pth": torch_file,
}
# In order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
LFS_POINTER = b"version https://git-lfs"


def open_tensors(path: str | os.PathLike) -> dict[str, TensorEntry]:
    """Opens a .safetensors, .bin, .pt, .pth or .msgpack file, without reading the data of the tensors.

    The format of a file with another suffix is detected from its first bytes.

    Returns:
      The tensors by torch name.

    Raises:
      OSError: the file cannot be opened.
      TensorFileError: a damaged, malicious or unsupported file.
    """
    path = Path(path)
    try:
        entries = _read_entries(path)
        return flax_to_torch(entries) if path.suffix == ".msgpack" else entries
    except FormatError as error:
        raise error.at(path) from None


def _read_entries(path: Path) -> dict[str, TensorEntry]:
    """Returns the tensors by the names in the file. Raises FormatError."""
    file = OpenedFile(path)
    with file.stream() as stream:
        head = stream.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise FormatError("a checkpoint", "a Git LFS pointer to it", "fetch the file itself with `git lfs pull`")
    return (FORMATS.get(path.suffix) or _detect_format(head)).read_entries(file)


def _detect_format(head: bytes) -> ModuleType:
    if head.startswith((torch_file.ZIP_MAGIC, torch_file.PICKLE_MAGIC)):
        return torch_file
    if head[8:9] == b"{":
        return safetensors_file
    raise FormatError(f"a file of a known format ({', '.join(FORMATS)})", f"{head[:8]!r} at its start", SAVE_AGAIN)


def open_folder(folder: str | os.PathLike | FolderSnapshot) -> dict[str, TensorEntry]:
    """Opens the first of `WEIGHT_FILES` in a folder, without reading the data of the tensors.

    All tensors are of the same save, even if another process saves into the folder later: the files stay open.

    Returns:
      The tensors by torch name.

    Raises:
      FileNotFoundError: the folder has none of the files.
      TensorFileError: a damaged, incomplete or missing file or shard.
    """
    return read_snapshot(folder, _open_weights)


def _open_weights(folder: FolderSnapshot) -> dict[str, TensorEntry]:
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        found = "the folder does not exist"
        if folder.path.is_dir():
            found = f"it contains {', '.join(folder.names()[:30]) or 'nothing'}"
        raise FileNotFoundError(f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES)}; {found}")
    return _open_shards(folder, name) if name.endswith(".index.json") else open_tensors(folder / name)


def _open_shards(folder: FolderSnapshot, name: str) -> dict[str, TensorEntry]:
    index = folder / name
    try:
        names_by_shard = _read_index(index)
        missing = [shard for shard in names_by_shard if not (folder / shard).is_file()]
        if missing:
            raise FormatError(
                f"{len(names_by_shard)} shards in the same folder",
                f"no {', '.join(map(describe, missing[:10]))} ({len(missing)} missing)",
            )
    except FormatError as error:
        raise error.at(index) from None
    merged: dict[str, TensorEntry] = {}
    for shard, names in names_by_shard.items():
        merged |= _open_shard(folder / shard, names, name)
    try:
        return flax_to_torch(merged) if ".msgpack." in name else merged
    except FormatError as error:
        raise error.at(index) from None


def _read_index(index: Path) -> dict[str, list[str]]:
    """Returns the names of the tensors in each shard."""
    weight_map = read_json_object(index, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError("a `weight_map` from tensor names to shards", describe(weight_map))
    names_by_shard: dict[str, list[str]] = defaultdict(list)
    for name, shard in weight_map.items():
        # An index must not be able to name files in other folders.
        if not is_plain_filename(shard):
            raise FormatError("file names in the same folder as shards", describe(shard), SAVE_AGAIN)
        names_by_shard[shard].append(name)
    return names_by_shard


def _open_shard(path: Path, names: list[str], index: str) -> dict[str, TensorEntry]:
    try:
        entries = _read_entries(path)
        # Flax's index joins the path of a parameter with slashes.
        expected = [name.replace("/", ".") if path.suffix == ".msgpack" else name for name in names]
        missing = [name for name in expected if name not in entries]
        if missing:
            raise FormatError(
                f"{len(expected)} tensors, as {index} says",
                f"{path.stat().st_size} bytes without {describe(missing[0])} ({len(missing)} missing)",
            )
    except FormatError as error:
        raise error.at(path) from None
    return {name: entries[name] for name in expected}
