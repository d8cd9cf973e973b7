"""From a name to a folder of files: the folder itself, or a snapshot of a Hub repository."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# In the order of preference; only the first kind that a repository has is downloaded.
WEIGHT_KINDS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ("flax_model*.msgpack", "flax_model.msgpack.index.json"),
)


def checkpoint_folder(name: str | Path, revision: str | None = None, subfolder: str | None = None) -> Path:
    """A folder with config.json and weights.

    Raises:
      FileNotFoundError: neither a folder nor a repository that can be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for Hub ids; {folder} is a folder")
    else:
        folder = _download(str(name), revision, subfolder)
    folder = folder / subfolder if subfolder else folder
    if not (folder / "config.json").is_file():
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) if folder.is_dir() else "nothing"
        raise FileNotFoundError(f"{folder} has no config.json; it holds: {held}")
    return folder


def _download(name: str, revision: str | None, subfolder: str | None) -> Path:
    prefix = f"{subfolder}/" if subfolder else ""
    try:
        for kind in WEIGHT_KINDS:
            patterns = [prefix + pattern for pattern in ("config.json", "generation_config.json", *kind)]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
            if any(match for pattern in kind for match in folder.glob(prefix + pattern)):
                break
        return folder
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder here nor a Hub id like 'openai-community/gpt2'"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the Hub has no {name!r} at revision {revision or 'main'} (or it is private)"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name!r} is not a folder here, and the Hub cannot be reached to download it; "
            f"pass a folder, or download it once while online"
        ) from error


def read_json(path: Path) -> dict:
    """The file's contents.

    Raises:
      ValueError: not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected an object of keys and values")
    return values
