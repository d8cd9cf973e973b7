"""From a name to a folder of files: the folder itself, or a snapshot of a Hub repository."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from jaxmodels.messages import brief, truncate

# What a caller may say about the Hub; handed to huggingface_hub under these names.
_TYPES: dict[str, tuple[type, ...]] = {
    "revision": (str,),
    "token": (str, bool),
    "cache_dir": (str, Path),
    "local_files_only": (bool,),
    "force_download": (bool,),
}
HUB_OPTIONS = tuple(_TYPES)


def local_folder(name: str | Path, patterns: Sequence[str], *, subfolder: str | None = None, **hub: Any) -> Path:
    """The folder of that name, or else the folder into which the Hub repository's files were downloaded.

    Args:
      name: folder, or Hub id like "openai-community/gpt2".
      patterns: files to download, as in `fnmatch`; relative to `subfolder`.
      subfolder: folder inside it that is meant.
      hub: of HUB_OPTIONS, for `huggingface_hub.snapshot_download`. A folder has no revisions; how to download says
        nothing about it.

    Raises:
      FileNotFoundError: neither a folder nor a repository that can be reached, or no such subfolder.
      ValueError: a revision of a folder.
      TypeError: an option that is none of HUB_OPTIONS, or a value of another type.
    """
    if unknown := hub.keys() - set(HUB_OPTIONS):
        raise TypeError(f"the Hub takes {', '.join(HUB_OPTIONS)} and subfolder, not {', '.join(sorted(unknown))}")
    given = {"name": name, "subfolder": subfolder, **hub}
    for option, types in {"name": (str, Path), "subfolder": (str,), **_TYPES}.items():
        if (option == "name" or given.get(option) is not None) and not isinstance(given[option], types):
            named = " or ".join(kind.__name__ for kind in types)
            raise TypeError(f"{option} is a {named}, got {brief(given[option])}")
    folder = Path(name)
    if os.path.isdir(name):  # False for a name that is too long for a path, too
        if hub.get("revision") is not None:
            raise ValueError(f"revision={hub['revision']!r} is for Hub ids; {folder} is a folder")
    else:
        prefix = f"{subfolder}/" if subfolder else ""
        folder = _snapshot(str(name), [prefix + pattern for pattern in patterns], hub)
    folder = folder / subfolder if subfolder else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return folder


def _snapshot(name: str, patterns: list[str], hub: dict[str, Any]) -> Path:
    options = {option: value for option, value in hub.items() if value is not None}
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **options))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{brief(name)} is neither a folder here nor a Hub id like 'openai-community/gpt2'"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the Hub has no {brief(name)} at revision {hub.get('revision') or 'main'}, or it is private: pass token="
        ) from error
    except OSError as error:  # the Hub's and the network's errors are among them
        why = truncate(" ".join(str(error).split()))
        raise FileNotFoundError(
            f"{brief(name)} is not a folder here, and the Hub cannot be reached to download it ({why}); "
            f"pass a folder, or download it once while online"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError alone
        raise ValueError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected an object of keys and values")
    return values
