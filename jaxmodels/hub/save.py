"""Saving in Hugging Face's format, which torch can load, without ever leaving an incomplete folder."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.architectures.base import Model
from jaxmodels.config import SPECIAL_TOKEN_IDS, thaw
from jaxmodels.convert import WeightsError, export
from jaxmodels.download import HubToken
from jaxmodels.hub.load import remaining_heads
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
        "state_dict": "the parameters are called params=",
        "safe_serialization": "the format is always safetensors; leave it out",
        "is_main_process": "all processes must call it, and the first one writes; leave it out",
        "save_function": "the files are always written by safetensors; leave it out",
        "variant": "file names are fixed; convert the parameters (jax.tree.map) and save into another folder",
        "save_peft_format": "jm.save_adapter saves adapters; leave it out",
        "repo_id": "it is called push_to_hub=",
        "use_auth_token": "it is called token=",
        "create_pr": "the push is to the main branch; huggingface_hub's upload_folder creates pull requests",
        "revision": "the push is to the main branch; huggingface_hub's upload_folder supports others",
    }
)
def save(
    folder: str | Path,
    model: Model,
    params: Mapping[str, Any],
    *,
    max_shard_size: int | str = "5GB",
    push_to_hub: str | None = None,
    private: bool | None = None,
    token: HubToken = None,
    commit_message: str | None = None,
) -> None:
    """Saves config.json, generation_config.json and model.safetensors (or shards and their index) to a folder.

    A save that is killed at any time leaves the previous checkpoint or the new one, never a mixture (see
    `atomic_save`). With several processes, all must call this function; the first one writes, and all return after it
    has finished.

    Args:
      folder: is created if needed.
      model: the model.
      params: its parameters as a nested dict; dtypes are preserved.
      max_shard_size: bytes, or a string such as "500MB"; a larger model is split into shards.
      push_to_hub: repository such as "user/name", created if needed. The checkpoint is uploaded from the folder, with
        the tokenizers there and a model card, README.md, which is written unless there is one that was edited by hand.
      private, token, commit_message: passed to huggingface_hub when pushing; the default token is that of
        `hf auth login`.

    Raises:
      WeightsError: the parameters do not match the model.
      ValueError, TypeError: an unknown option or an invalid value; nothing is written.
      OSError: writing failed, e.g. because the disk is full; or pushing failed, and the folder contains the checkpoint.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> jm.save("my-gpt2", model, params)
      >>> model, params = jm.load("my-gpt2")
    """
    push_options: dict[str, Any] = {"private": private, "token": token, "commit_message": commit_message}
    if push_to_hub is not None:
        check_repository(push_to_hub)
    elif unused := [name for name, value in push_options.items() if value is not None]:
        raise TypeError(f"{', '.join(unused)}: only for a push; pass push_to_hub='user/name', or leave it out")
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder must be a path, got {brief(folder)}")
    if not isinstance(model, Model):
        raise TypeError(
            f"model must be a model of jaxmodels, got {brief(model)}; the arguments are jm.save(folder, model, params)"
        )
    check_tree("params", params)
    flat = flatten(params)
    check_params("the parameters to save", model, flat)
    max_bytes = _parse_size(max_shard_size)
    tensors = export(model.table, ((path, to_host(array)) for path, array in flat.items()), remaining_heads(model))

    def write() -> None:
        with atomic_save(Path(folder), "config", "weights") as staging:
            _rename_shards(staging, list(_write_shards(staging, tensors, max_bytes)))
            _write_configs(staging, model, flat)

    on_first_process(write, tensors)
    if push_to_hub is not None:

        def upload() -> None:
            write_card(Path(folder), model, flat, push_to_hub)
            push(Path(folder), push_to_hub, **push_options)

        on_first_process(upload)


def check_params(what: str, model: Model, flat: Mapping[str, Any]) -> None:
    """Raises WeightsError if the flattened parameters are not those of the model."""
    shapes = flatten(abstract(model))
    unknown, missing = [p for p in flat if p not in shapes], [p for p in shapes if p not in flat]
    mismatched = [
        f"{path}: {np.shape(array)} in the parameters, {shapes[path].shape} in the model"
        for path, array in flat.items()
        if path in shapes and np.shape(array) != shapes[path].shape
    ]
    if unknown or missing or mismatched:
        raise WeightsError(f"{what} ({type(model).__name__})", unknown, missing, mismatched)


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """Returns the whole array; of one that is sharded over several processes, a collective operation."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _parse_size(size: int | str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]?I?B?)", str(size).strip().upper())
    if not match or match[2] not in _UNITS or int(match[1]) < 1:
        raise ValueError(f"max_shard_size must be a number of bytes or a string such as '5GB', got {size!r}")
    return int(match[1]) * _UNITS[match[2]]


def _write_shards(
    staging: Path, tensors: Iterable[tuple[str, np.ndarray]], max_bytes: int
) -> Iterator[tuple[Path, dict[str, int]]]:
    """Writes files of at most `max_bytes` (or one tensor); yields each with the sizes of its tensors."""
    shard: dict[str, np.ndarray] = {}
    count = 0

    def flush() -> tuple[Path, dict[str, int]]:
        path = staging / f"shard-{count}"
        write_tensors(path, shard, metadata={"format": "pt"})
        return path, {name: tensor.nbytes for name, tensor in shard.items()}

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > max_bytes:
            yield flush()
            shard, count = {}, count + 1
        shard[name] = np.ascontiguousarray(tensor)
    yield flush()


def _rename_shards(staging: Path, shards: list[tuple[Path, dict[str, int]]]) -> None:
    """Renames the files, which needs their number, and writes the index."""
    if len(shards) == 1:
        shards[0][0].rename(staging / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for i, (path, sizes) in enumerate(shards, start=1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        path.rename(staging / name)
        weight_map |= dict.fromkeys(sizes, name)
    total = sum(size for _, sizes in shards for size in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (staging / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_configs(staging: Path, model: Model, flat: Mapping[str, Any]) -> None:
    dtype = jnp.result_type(next(iter(flat.values()))).name
    settings = thaw(model.config.generation)
    config = model.config.replace(architectures=(type(model).__name__,), torch_dtype=dtype, generation={})
    (staging / "config.json").write_text(config.to_json())
    if settings:
        # If this file exists, transformers ignores the token ids in config.json.
        ids = {name: value for name in SPECIAL_TOKEN_IDS if (value := getattr(model.config, name)) is not None}
        settings = {**thaw(ids), **settings}
        (staging / "generation_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
