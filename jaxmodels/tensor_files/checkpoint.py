"""Picks and opens the weights in a model's folder, in one file or in shards."""

import os
from collections import defaultdict
from pathlib import Path
from types import ModuleType

from . import msgpack_file, safetensors_file, torch_file
from .atomic_save import FolderSnapshot, is_plain_filename, read_snapshot
from .entry import TensorEntry, to_torch
from .file_io import OpenedFile
from .safetensors_file import read_json_object
from .validation import SAVE_AGAIN, FormatError, describe

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
        return to_torch(entries) if path.suffix == ".msgpack" else entries
    except FormatError as error:
        raise error.at(path) from None


def read_stored(path: Path) -> dict[str, TensorEntry]:
    """The tensors by the names that the file itself uses. Raises FormatError."""
    file = OpenedFile(path)
    with file.stream() as stream:
        head = stream.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise FormatError("a checkpoint", "a Git LFS pointer to it", "fetch the file itself with `git lfs pull`")
    return (FORMATS.get(path.suffix) or _by_content(head)).read_entries(file)


def _by_content(head: bytes) -> ModuleType:
    if head.startswith((torch_file.ZIP_MAGIC, torch_file.PICKLE_MAGIC)):
        return torch_file
    if head[8:9] == b"{":
        return safetensors_file
    raise FormatError(
        f"a file of a known kind ({', '.join(FORMATS)})", f"one that begins with {head[:8]!r}", SAVE_AGAIN
    )


WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)


def open_folder(folder: str | os.PathLike | FolderSnapshot) -> dict[str, TensorEntry]:
    """The tensors of the first of `WEIGHT_FILES` that the folder holds, by their torch names. Reads no tensor data.

    All are of one save, and stay so when another one comes: their files are kept open.

    Raises FileNotFoundError where the folder holds none of them, TensorFileError for a file or shard that is broken,
    incomplete or missing.
    """
    return read_snapshot(folder, _open)


def _open(folder: FolderSnapshot) -> dict[str, TensorEntry]:
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        holds = ", ".join(folder.names()[:30]) or "nothing" if folder.path.is_dir() else None
        holds = "there is no such folder" if holds is None else f"it holds {holds}"
        raise FileNotFoundError(f"no weights in {folder}: looked for {', '.join(WEIGHT_FILES)}; {holds}")
    return _open_shards(folder, name) if name.endswith(".index.json") else open_tensors(folder / name)


def _open_shards(folder: FolderSnapshot, name: str) -> dict[str, TensorEntry]:
    index = folder / name
    try:
        names_of = _names_by_shard(index)
        missing = [shard for shard in names_of if not (folder / shard).is_file()]
        if missing:
            raise FormatError(
                f"{len(names_of)} shards beside it",
                f"no {', '.join(map(describe, missing[:10]))} ({len(missing)} missing)",
            )
    except FormatError as error:
        raise error.at(index) from None
    merged: dict[str, TensorEntry] = {}
    for shard, names in names_of.items():
        merged |= _open_shard(folder / shard, names, name)
    try:
        return to_torch(merged) if ".msgpack." in name else merged
    except FormatError as error:
        raise error.at(index) from None


def _names_by_shard(index: Path) -> dict[str, list[str]]:
    weight_map = read_json_object(index, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError("a `weight_map` from tensor names to shards", describe(weight_map))
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, shard in weight_map.items():
        # A shard lies beside its index: the name of any other file on this machine is not the index's to give.
        if not is_plain_filename(shard):
            raise FormatError("the names of files beside the index as shards", describe(shard), SAVE_AGAIN)
        names_of[shard].append(name)
    return names_of


def _open_shard(path: Path, names: list[str], index: str) -> dict[str, TensorEntry]:
    try:
        entries = read_stored(path)
        # Flax's index joins the path of a parameter with slashes.
        wanted = [name.replace("/", ".") if path.suffix == ".msgpack" else name for name in names]
        absent = [name for name in wanted if name not in entries]
        if absent:
            raise FormatError(
                f"{len(wanted)} tensors that {index} places here",
                f"{path.stat().st_size} bytes without {describe(absent[0])} ({len(absent)} missing)",
            )
    except FormatError as error:
        raise error.at(path) from None
    return {name: entries[name] for name in wanted}
