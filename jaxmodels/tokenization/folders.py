"""From a name to a tokenizer's folder, and from that to the arguments of a class."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmodels import download
from jaxmodels.names import refuse_foreign
from jaxmodels.tensor_files.saved import SavedFolder, read_saved
from jaxmodels.tokenization import files, refusals
from jaxmodels.tokenization.kinds import refused
from jaxmodels.wording import cut

if TYPE_CHECKING:
    from jaxmodels.tokenization.base import Tokenizer

MODEL_CONFIG = "config.json"


def hub_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """-> those for the Hub, and the others."""
    hub = {name: value for name, value in options.items() if name in download.HUB_OPTIONS}
    return hub, {name: value for name, value in options.items() if name not in hub}


def patterns(classes: "Iterable[type[Tokenizer]]") -> list[str]:
    """The files that tokenizers of these classes are made of."""
    own = {name for cls in classes for names in cls.VOCABULARY_FILES.values() for name in names}
    return [*files.NAMES, MODEL_CONFIG, *sorted(own)]


def find(source: str | os.PathLike, names: list[str], subfolder: str | None, hub: dict[str, Any]) -> Path:
    """The folder of a name; see `download.local_folder` for what it raises."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"a folder or a Hub id must be a str or a path, got {source!r}")
    if subfolder is not None and not isinstance(subfolder, str):
        raise refused("subfolder", "a str", subfolder)
    name = source if isinstance(source, str) and not os.path.isdir(source) else Path(source)
    return download.local_folder(name, names, subfolder=subfolder, **hub)


def load(folder: Path, choose: "Callable[[SavedFolder], type[Tokenizer]]", options: dict[str, Any]) -> "Tokenizer":
    """The tokenizer of a folder as one of the class that is chosen; `options` rule over the folder's settings.

    Raises:
      FileNotFoundError: the folder lacks what the class is made of.
      ValueError: damaged files, and files that contradict each other; it names the folder or the file.
      TypeError: an option that is not here.
    """
    return read_saved(folder, lambda saved: _load(saved, choose(saved), options))


def _load(folder: SavedFolder, cls: "type[Tokenizer]", options: dict[str, Any]) -> "Tokenizer":
    foreign = {name: value for name, value in options.items() if name in refusals.LOAD}
    refuse_foreign(f"loading a {cls.__name__} has no option", foreign, (), refusals.LOAD)
    options = {name: value for name, value in options.items() if name not in foreign}
    arguments = files.read_arguments(folder)
    strange = sorted(arguments.keys() - {*files.ARGUMENTS, *cls.OPTIONS})
    if strange:
        warnings.warn(
            f"{folder / files.CONFIG}: no effect on a {cls.__name__}: {cut(', '.join(strange), 300)}", stacklevel=6
        )
    arguments = {key: value for key, value in arguments.items() if key not in strange}
    vocabulary = _vocabulary(folder, cls)
    if "tokenizer_file" in vocabulary:
        arguments = cls.settle(arguments, vocabulary["tokenizer_file"], files.read_json(folder / files.CONFIG))
    try:
        return cls(**vocabulary, **(arguments | options))
    except ValueError as error:
        raise error if str(folder) in str(error) else ValueError(f"{folder}: {error}") from error


def _vocabulary(folder: SavedFolder, cls: "type[Tokenizer]") -> dict[str, Path]:
    """Constructor argument -> file: tokenizer.json with what stands beside it, or else the family's own files."""
    there = {
        argument: next((folder / name for name in names if (folder / name).is_file()), None)
        for argument, names in cls.VOCABULARY_FILES.items()
    }
    if (folder / files.TOKENIZER).is_file():
        beside = {argument: path for argument in cls.BESIDE_JSON if (path := there[argument])}
        return {"tokenizer_file": folder / files.TOKENIZER, **beside}
    found = {argument: path for argument, path in there.items() if path is not None}
    for argument in there.keys() - found.keys():
        raise FileNotFoundError(
            f"{folder} has neither {files.TOKENIZER} nor {' or '.join(cls.VOCABULARY_FILES[argument])}, which "
            f"{cls.__name__} needs; it holds {listing(folder)}"
        )
    return found


def listing(folder: SavedFolder) -> str:
    return ", ".join(folder.names()[:20]) or "nothing"
