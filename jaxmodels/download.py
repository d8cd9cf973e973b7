"""Resolves a name to a local folder: the folder itself, or a snapshot of a Hub repository."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

from jaxmodels.messages import brief, truncate

HubToken: TypeAlias = str | bool | None


class HubOptions(TypedDict, total=False):
    """Options passed to `huggingface_hub.snapshot_download`; None is its default."""

    revision: str | None
    token: HubToken
    cache_dir: str | Path | None
    local_files_only: bool | None
    force_download: bool | None


_TYPES: dict[str, tuple[type, ...]] = {
    "revision": (str,),
    "token": (str, bool),
    "cache_dir": (str, Path),
    "local_files_only": (bool,),
    "force_download": (bool,),
}
HUB_OPTIONS = tuple(_TYPES)


def local_folder(
    name: str | Path, patterns: Sequence[str], *, subfolder: str | None = None, **hub: Unpack[HubOptions]
) -> Path:
    """Returns the folder of this name, or downloads the files of the Hub repository.

    Args:
      name: folder, or Hub id such as "openai-community/gpt2".
      patterns: files to download, as in `fnmatch`, relative to `subfolder`.
      subfolder: subfolder of the folder or the repository.
      hub: for `huggingface_hub.snapshot_download`; a local folder ignores all but `revision`.

    Raises:
      FileNotFoundError: neither a folder nor a repository that can be reached, or the subfolder does not exist.
      ValueError: a revision of a local folder.
      TypeError: an unknown option, or a value of the wrong type.
    """
    if unknown := hub.keys() - set(HUB_OPTIONS):
        raise TypeError(
            f"options of the Hub are {', '.join(HUB_OPTIONS)} and subfolder, got {', '.join(sorted(unknown))}"
        )
    values: dict[str, Any] = {"name": name, "subfolder": subfolder, **hub}
    for option, types in {"name": (str, Path), "subfolder": (str,), **_TYPES}.items():
        if (option == "name" or values.get(option) is not None) and not isinstance(values[option], types):
            expected = " or ".join(each.__name__ for each in types)
            raise TypeError(f"{option} must be a {expected}, got {brief(values[option])}")
    folder = Path(name)
    if os.path.isdir(name):  # False, without an error, for a name that is too long for a path
        if hub.get("revision") is not None:
            raise ValueError(f"revision={hub['revision']!r} is for Hub ids, but {folder} is a folder; leave it out")
    else:
        prefix = f"{subfolder}/" if subfolder else ""
        folder = _snapshot(str(name), [prefix + pattern for pattern in patterns], hub)
    folder = folder / subfolder if subfolder else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    return folder


def _snapshot(name: str, patterns: list[str], hub: HubOptions) -> Path:
    # Imported here, like in `hub.push`: it takes a third of the time of `import jaxmodels`, and folders do not need it.
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    options: dict[str, Any] = {option: value for option, value in hub.items() if value is not None}
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **options))
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{brief(name)} is neither a local folder nor a Hub id such as 'openai-community/gpt2'"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the Hub has no {brief(name)} at revision {hub.get('revision') or 'main'}, or it is private: pass token="
        ) from error
    except OSError as error:  # includes errors of the Hub and of the network
        reason = truncate(" ".join(str(error).split()))
        raise FileNotFoundError(
            f"{brief(name)} is not a local folder, and the Hub cannot be reached to download it ({reason}); "
            f"pass a folder, or download it once while online"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that contains an object.

    Raises:
      ValueError: not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with too many digits
        raise ValueError(f"{path} is not valid JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must contain a JSON object, got a {type(values).__name__}")
    return values
