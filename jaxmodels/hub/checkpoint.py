"""The config of a checkpoint: which family's, from its two files, with the changes of a call."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmodels.architectures import MODELS, config_class, model_class
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag import RagConfig
from jaxmodels.architectures.t5 import T5Config
from jaxmodels.config import Config
from jaxmodels.config.files import CONFIG_FILES, read_configs
from jaxmodels.download import HUB_OPTIONS, local_folder
from jaxmodels.tensor_files import TensorEntry
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, read_snapshot

# In the order of preference; only the first kind that a repository has is downloaded.
WEIGHT_KINDS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ("flax_model*.msgpack", "flax_model.msgpack.index.json"),
)
CONFIGS = ("config.json", "generation_config.json")


def checkpoint_folder(name: str | Path, *, subfolder: str | None = None, **hub: Any) -> Path:
    """A folder with config.json and weights.

    Args:
      hub: see `local_folder`, which also says what is raised.

    Raises:
      FileNotFoundError: no config.json in it.
    """
    for kind in WEIGHT_KINDS:
        folder = local_folder(name, (*CONFIGS, *kind), subfolder=subfolder, **hub)
        if Path(name).is_dir() or any(match for pattern in kind for match in folder.glob(pattern)):
            break
    read_snapshot(folder, _check)
    return folder


def _check(folder: FolderSnapshot) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; it holds: {', '.join(folder.names()[:20]) or 'nothing'}")


def load_config(
    name: str | Path, *, cls: type[Model] | str | None = None, subfolder: str | None = None, **options
) -> Config:
    """The config that `load` would give the model; of a Hub repository only the JSON files are downloaded.

    Args:
      name: folder, or Hub id like "openai-community/gpt2".
      cls: as in `load`; says the family where config.json does not.
      options: revision, token, cache_dir, local_files_only, force_download, for huggingface_hub; all else are values
        that count instead of the file's, e.g. num_labels=5.

    Raises:
      FileNotFoundError: no such folder or repository, or no config.json in it.
      ValueError: a file that is no JSON, a config of another family, an unknown key or a value it cannot have.
    """
    hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
    return read_config(local_folder(name, CONFIG_FILES, subfolder=subfolder, **hub), cls, options)[0]


def read_config(
    folder: Path | FolderSnapshot, cls: type[Model] | str | None, options: dict[str, Any]
) -> tuple[Config, dict[str, Any]]:
    """The config of a folder with the options, and those of them that are attributes of the class.

    Raises:
      ValueError: see `load_config`.
    """
    values, settings = read_configs(folder)
    kind = config_class(values, cls)
    family = [model for model in MODELS.values() if model.config_class is kind]
    attributes = {name for model in family for name in _attributes(model)} & options.keys()
    changes = {name: value for name, value in options.items() if name not in attributes}
    config = kind.from_files(values, settings, changes)
    model = model_class(cls, config)
    for name in attributes - _attributes(model):
        raise ValueError(f"{model.__name__} has no {name!r}, which others of its family have; leave it out")
    return config, {name: options[name] for name in attributes}


def with_own_head(config: Config, entries: Mapping[str, TensorEntry]) -> Config:
    """The config, untied where release 5 of the reference wrote a T5 whose head is a table of its own.

    It writes tie_word_embeddings=true for every T5, and goes by the tensors that it finds.
    """
    if isinstance(config, RagConfig):
        assert config.generator is not None  # a config without one is refused
        generator = with_own_head(config.generator, entries)
        return config if generator is config.generator else config.replace(generator=generator)
    if not isinstance(config, T5Config) or not config.tie_word_embeddings or config.scale_decoder_outputs is None:
        return config
    head, words = (
        next((entry for name, entry in entries.items() if f".{name}".endswith(f".{table}.weight")), None)
        for table in ("lm_head", "shared")
    )
    apart = head is not None and words is not None and not head.same_values(words)
    return config.replace(tie_word_embeddings=False) if apart else config


def _attributes(model: type[Model]) -> set[str]:
    """Those of the class itself; what all models have, `load` takes by name."""
    return {field.name for field in dataclasses.fields(model)} - {field.name for field in dataclasses.fields(Model)}
