"""Picks and opens the weights in a model's folder, in one file or in shards."""

import os
from collections import defaultdict
from pathlib import Path

from . import flax_names
from .entry import TensorEntry
from .errors import SAVE_AGAIN, Malformed, described
from .file_sets import is_plain
from .open_file import open_tensors, read_stored
from .safetensors_file import read_json_object
from .saved import SavedFolder, read_saved

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)


def open_folder(folder: str | os.PathLike | SavedFolder) -> dict[str, TensorEntry]:
    """The tensors of the first of `WEIGHT_FILES` that the folder holds, by their torch names. Reads no tensor data.

    All are of one save, and stay so when another one comes: their files are kept open.

    Raises FileNotFoundError where the folder holds none of them, TensorFileError for a file or shard that is broken,
    incomplete or missing.
    """
    return read_saved(folder, _open)


def _open(folder: SavedFolder) -> dict[str, TensorEntry]:
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        holds = ", ".join(folder.names()[:30]) or "nothing" if folder.path.is_dir() else None
        holds = "there is no such folder" if holds is None else f"it holds {holds}"
        raise FileNotFoundError(f"no weights in {folder}: looked for {', '.join(WEIGHT_FILES)}; {holds}")
    return _open_shards(folder, name) if name.endswith(".index.json") else open_tensors(folder / name)


def _open_shards(folder: SavedFolder, name: str) -> dict[str, TensorEntry]:
    index = folder / name
    try:
        names_of = _names_by_shard(index)
        missing = [shard for shard in names_of if not (folder / shard).is_file()]
        if missing:
            raise Malformed(
                f"{len(names_of)} shards beside it",
                f"no {', '.join(map(described, missing[:10]))} ({len(missing)} missing)",
            )
    except Malformed as error:
        raise error.at(index) from None
    merged: dict[str, TensorEntry] = {}
    for shard, names in names_of.items():
        merged |= _open_shard(folder / shard, names, name)
    try:
        return flax_names.to_torch(merged) if ".msgpack." in name else merged
    except Malformed as error:
        raise error.at(index) from None


def _names_by_shard(index: Path) -> dict[str, list[str]]:
    weight_map = read_json_object(index, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Malformed("a `weight_map` from tensor names to shards", described(weight_map))
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, shard in weight_map.items():
        # A shard lies beside its index: the name of any other file on this machine is not the index's to give.
        if not is_plain(shard):
            raise Malformed("the names of files beside the index as shards", described(shard), SAVE_AGAIN)
        names_of[shard].append(name)
    return names_of


def _open_shard(path: Path, names: list[str], index: str) -> dict[str, TensorEntry]:
    try:
        entries = read_stored(path)
        # Flax's index joins the path of a parameter with slashes.
        wanted = [name.replace("/", ".") if path.suffix == ".msgpack" else name for name in names]
        absent = [name for name in wanted if name not in entries]
        if absent:
            raise Malformed(
                f"{len(wanted)} tensors that {index} places here",
                f"{path.stat().st_size} bytes without {described(absent[0])} ({len(absent)} missing)",
            )
    except Malformed as error:
        raise error.at(path) from None
    return {name: entries[name] for name in wanted}
