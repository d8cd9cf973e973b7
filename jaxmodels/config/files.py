"""config.json and generation_config.json of a folder."""

import json
from pathlib import Path
from typing import Any

from jaxmodels.download import read_json
from jaxmodels.tensor_files.commit import staged
from jaxmodels.tensor_files.saved import SavedFolder, read_saved

CONFIG, GENERATION = CONFIG_FILES = ("config.json", "generation_config.json")


def read_configs(folder: Path | SavedFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The contents of both files; None where there is no generation_config.json.

    Raises:
      FileNotFoundError: no config.json. ValueError: no JSON object in one of them.
    """
    return read_saved(folder, _read)


def _read(folder: SavedFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; it holds: {', '.join(folder.names()[:20]) or 'nothing'}")
    settings = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else None
    return read_json(folder / CONFIG), settings


def write_configs(folder: Path, values: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes both files, or config.json alone where there are no settings, in which case an older one goes."""
    with staged(folder, "config") as staging:
        for name, contents in ((CONFIG, values), (GENERATION, settings)):
            if contents:
                (staging / name).write_text(to_json(contents), encoding="utf-8")


def to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
