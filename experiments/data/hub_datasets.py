"""Data sets of the Hugging Face Hub, by its package `datasets`, which is only imported where one is named."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

# ID:SPLIT or ID:CONFIG:SPLIT; a split may be a slice, train[:10%].
_SOURCE = re.compile(r"(?P<id>[^:]+)(?::(?P<name>[^:\[\]]+))?:(?P<split>[^:\[\]]+(?:\[[^\]]*\])?)")


def is_named(source: str) -> bool:
    """Return whether this is the id of a data set with its split, and no file."""
    return not Path(source).exists() and _SOURCE.fullmatch(source) is not None


def load(source: str, streaming: bool) -> Any:
    """Load a data set.

    Args:
      source: ID:SPLIT or ID:CONFIG:SPLIT, where ID is that of the Hub or a local folder with the files of a data set.
      streaming: Read it piece by piece instead of downloading it first.

    Returns:
      A `datasets.Dataset`, or with streaming a `datasets.IterableDataset`.

    Raises:
      ValueError: There is no package `datasets`, no such data set, config or split.
      ConnectionError: It has to be downloaded, and the Hub cannot be reached.
    """
    found = _SOURCE.fullmatch(source)
    assert found is not None
    datasets = _package(source)
    names = ", ".join(repr(name) for name in (found["id"], found["name"]) if name)
    try:
        return datasets.load_dataset(found["id"], found["name"], split=found["split"], streaming=streaming)
    except ConnectionError as error:
        raise ConnectionError(
            f"{source} has to be downloaded, and the Hugging Face Hub cannot be reached ({error}); run "
            f"datasets.load_dataset({names}) once with network access, which stores it, or pass a file"
        ) from None
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from None


def _package(source: str) -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{source} is no file; to read it as a data set of the Hugging Face Hub: pip install 'jaxmodels[datasets]'"
        ) from None
    return datasets
