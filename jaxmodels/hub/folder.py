"""A checkpoint's folder: config.json and weights, of a folder here or of the Hub."""

from pathlib import Path
from typing import Any

from jaxmodels.download import local_folder
from jaxmodels.tensor_files.saved import SavedFolder, read_saved

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
    read_saved(folder, _check)
    return folder


def _check(folder: SavedFolder) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; it holds: {', '.join(folder.names()[:20]) or 'nothing'}")
