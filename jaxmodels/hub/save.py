"""Saving in Hugging Face's format, so that torch loads it, without ever leaving a half-written folder."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.architectures.base import Model
from jaxmodels.config import TEXT_IDS, thaw
from jaxmodels.convert import WeightsError, export
from jaxmodels.hub.load import kept_heads
from jaxmodels.hub.push import check_repository, push, write_card
from jaxmodels.messages import brief, reject_unknown_keywords
from jaxmodels.parameters import abstract, check_tree, flatten
from jaxmodels.processes import on_first_process
from jaxmodels.tensor_files.atomic_save import atomic_save
from jaxmodels.tensor_files.safetensors_file import write_tensors

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@reject_unknown_keywords(
    {
        "save_directory": "it is called folder=",
        "state_dict": "the tree is called params=",
        "safe_serialization": "safetensors are written, always; leave it out",
        "is_main_process": "all processes call it, and the first one writes; leave it out",
        "save_function": "files are written by safetensors, always; leave it out",
        "variant": "files have their usual names; convert the parameters (jax.tree.map) and save into another folder",
        "save_peft_format": "there are no adapters; leave it out",
        "repo_id": "it is called push_to_hub=",
        "use_auth_token": "it is called token=",
        "create_pr": "a push goes to the main branch; upload_folder of huggingface_hub makes pull requests",
        "revision": "a push goes to the main branch; upload_folder of huggingface_hub takes others",
    }
)
def save(
    folder: str | Path,
    model: Model,
    params: dict,
    *,
    max_shard_size: int | str = "5GB",
    push_to_hub: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> None:
    """Writes config.json, generation_config.json and model.safetensors (or shards and their index) into `folder`.

    A save that is killed at any moment leaves the earlier checkpoint or the new one, never a mixture (see `commit`).
    With several processes, all must call this; the first one writes, and none goes on before all is written.

    Args:
      params: tree of the model's shape; each tensor keeps its type.
      max_shard_size: bytes, or text like "500MB"; a larger model is split.
      push_to_hub: a repository like "user/name", which is made where it is not there. Then the checkpoint is uploaded
        from the folder, with the tokenizers that it holds and a model card, README.md, which is written where there is
        none, or one of ours that nobody has edited.
      private, token, commit_message: of the push, for huggingface_hub; its own token is that of `hf auth login`.

    Raises:
      WeightsError: the tree does not fit the model.
      ValueError, TypeError: an option that is none, or of another type; nothing is written.
      OSError: the disk is full, say; or the push did not succeed, in which case the folder holds the checkpoint.
    """
    pushing: dict[str, Any] = {"private": private, "token": token, "commit_message": commit_message}
    if push_to_hub is not None:
        check_repository(push_to_hub)
    elif given := [name for name, value in pushing.items() if value is not None]:
        raise TypeError(f"{', '.join(given)}: for a push; say push_to_hub='user/name', or leave it out")
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder is a path, got {brief(folder)}")
    if not isinstance(model, Model):
        raise TypeError(f"model is one of jaxmodels, got {brief(model)}; the order is jm.save(folder, model, params)")
    check_tree("params", params)
    flat = flatten(params)
    _check(model, flat)
    limit = _bytes(max_shard_size)
    tensors = export(model.table, ((path, _on_host(array)) for path, array in flat.items()), kept_heads(model))

    def write() -> None:
        with atomic_save(Path(folder), "config", "weights") as staging:
            _name_shards(staging, list(_write_shards(staging, tensors, limit)))
            _write_configs(staging, model, flat)

    on_first_process(write, tensors)
    if push_to_hub is not None:

        def upload() -> None:
            write_card(Path(folder), model, flat, push_to_hub)
            push(Path(folder), push_to_hub, **pushing)

        on_first_process(upload)


def _check(model: Model, flat: dict) -> None:
    shapes = flatten(abstract(model))
    surplus, missing = [p for p in flat if p not in shapes], [p for p in shapes if p not in flat]
    mismatched = [
        f"{path}: {np.shape(array)} in the tree, the model has {shapes[path].shape}"
        for path, array in flat.items()
        if path in shapes and np.shape(array) != shapes[path].shape
    ]
    if surplus or missing or mismatched:
        raise WeightsError(f"the parameters to save ({type(model).__name__})", surplus, missing, mismatched)


def _on_host(array) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _bytes(size: int | str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?I?B?)", str(size).strip().upper())
    if not match or match[2] not in _UNITS or int(match[1]) < 1:
        raise ValueError(f"max_shard_size is a number of bytes or text like '5GB', got {size!r}")
    return int(match[1]) * _UNITS[match[2]]


def _write_shards(staging: Path, tensors: Iterable[tuple[str, np.ndarray]], limit: int) -> Iterator[tuple[Path, dict]]:
    """Files of at most `limit` bytes (or one tensor), and the size of each tensor in them."""
    shard: dict[str, np.ndarray] = {}
    count = 0

    def flush():
        path = staging / f"shard-{count}"
        write_tensors(path, shard, metadata={"format": "pt"})
        return path, {name: tensor.nbytes for name, tensor in shard.items()}

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > limit:
            yield flush()
            shard, count = {}, count + 1
        shard[name] = np.ascontiguousarray(tensor)
    yield flush()


def _name_shards(staging: Path, shards: list[tuple[Path, dict[str, int]]]) -> None:
    """Gives the files their final names, now that their number is known, and writes the index."""
    if len(shards) == 1:
        shards[0][0].rename(staging / "model.safetensors")
        return
    where: dict[str, str] = {}
    for i, (path, sizes) in enumerate(shards, start=1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        path.rename(staging / name)
        where |= dict.fromkeys(sizes, name)
    total = sum(size for _, sizes in shards for size in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (staging / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_configs(staging: Path, model: Model, flat: dict) -> None:
    kind = jnp.result_type(next(iter(flat.values()))).name
    settings = thaw(model.config.generation)
    config = model.config.replace(architectures=(type(model).__name__,), torch_dtype=kind, generation={})
    (staging / "config.json").write_text(config.to_json())
    if settings:
        # Beside this file transformers does not look at the ids in config.json.
        ids = {name: value for name in TEXT_IDS if (value := getattr(model.config, name)) is not None}
        settings = {**thaw(ids), **settings}
        (staging / "generation_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
