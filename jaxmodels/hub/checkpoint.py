"""Checkpoints in a folder or a Hub repository: which files to download, and the configuration."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from jaxmodels.architectures import MODELS, config_class, model_class
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag import RagConfig
from jaxmodels.architectures.t5 import T5Config
from jaxmodels.config import Config, ConfigValue
from jaxmodels.config.files import CONFIG_FILES, read_configs
from jaxmodels.download import HubOptions, HubToken, local_folder
from jaxmodels.tensor_files import TensorEntry
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, read_snapshot

# In order of preference; only the first format that a repository has is downloaded.
WEIGHT_PATTERNS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ("flax_model*.msgpack", "flax_model.msgpack.index.json"),
)


def checkpoint_folder(name: str | Path, *, subfolder: str | None = None, **hub: Unpack[HubOptions]) -> Path:
    """Returns a folder with config.json and weights, downloaded if `name` is a Hub id.

    Args:
      name, subfolder, hub: see `local_folder`, also for further exceptions.

    Raises:
      FileNotFoundError: the folder has no config.json.
    """
    for patterns in WEIGHT_PATTERNS:
        folder = local_folder(name, (*CONFIG_FILES, *patterns), subfolder=subfolder, **hub)
        if Path(name).is_dir() or any(match for pattern in patterns for match in folder.glob(pattern)):
            break
    read_snapshot(folder, _check_has_config)
    return folder


def _check_has_config(folder: FolderSnapshot) -> None:
    if not (folder / "config.json").is_file():
        found = ", ".join(folder.names()[:20]) or "nothing"
        raise FileNotFoundError(f"{folder} has no config.json; it contains {found}")


def load_config(
    name: str | Path,
    *,
    cls: type[Model] | str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: HubToken = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    **overrides: ConfigValue,
) -> Config:
    """Loads the configuration that `load` uses; of a Hub repository only the JSON files are downloaded.

    Args:
      name: folder, or Hub id such as "openai-community/gpt2".
      cls: as in `load`; determines the model type if config.json does not.
      subfolder: subfolder of the folder or the repository.
      revision, token, cache_dir, local_files_only, force_download: passed to huggingface_hub.
      overrides: values that replace those of the file, e.g. num_labels=5.

    Returns:
      The configuration.

    Raises:
      FileNotFoundError: the folder or repository does not exist, or has no config.json.
      ValueError: a file that is not JSON, an unsupported model type, an unknown key or an invalid value.

    Examples:
      >>> jm.load_config("openai-community/gpt2", n_layer=2).n_layer
      2
    """
    folder = local_folder(
        name,
        CONFIG_FILES,
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return read_config(folder, cls, overrides)[0]


def read_config(
    folder: Path | FolderSnapshot, cls: type[Model] | str | None, overrides: Mapping[str, Any]
) -> tuple[Config, dict[str, Any]]:
    """Reads the configuration of a folder, with some values replaced.

    Returns:
      The configuration, and those of the overrides that are attributes of the model class instead.

    Raises:
      ValueError: see `load_config`.
    """
    values, generation = read_configs(folder)
    chosen = config_class(values, cls)
    models = [model for model in MODELS.values() if model.config_class is chosen]
    attributes = {name for model in models for name in _extra_attributes(model)} & overrides.keys()
    config = chosen.from_files(
        values, generation, {name: value for name, value in overrides.items() if name not in attributes}
    )
    model = model_class(cls, config)
    for name in attributes - _extra_attributes(model):
        raise ValueError(f"{model.__name__} has no {name!r}, which other classes of the model type have; leave it out")
    return config, {name: overrides[name] for name in attributes}


def _extra_attributes(model: type[Model]) -> set[str]:
    """Attributes of the class that `Model` does not have."""
    return {field.name for field in dataclasses.fields(model)} - {field.name for field in dataclasses.fields(Model)}


def untie_separate_head(config: Config, entries: Mapping[str, TensorEntry]) -> Config:
    """Returns the config with tie_word_embeddings=False if a T5 written by transformers 5 has a separate head.

    That release writes tie_word_embeddings=true for every T5, and decides by the tensors that it finds.
    """
    if isinstance(config, RagConfig):
        assert config.generator is not None  # a RagConfig always has one
        generator = untie_separate_head(config.generator, entries)
        return config if generator is config.generator else config.replace(generator=generator)
    if not isinstance(config, T5Config) or not config.tie_word_embeddings or config.scale_decoder_outputs is None:
        return config
    head, embeddings = (
        next((entry for name, entry in entries.items() if f".{name}".endswith(f".{module}.weight")), None)
        for module in ("lm_head", "shared")
    )
    separate = head is not None and embeddings is not None and not head.same_values(embeddings)
    return config.replace(tie_word_embeddings=False) if separate else config
