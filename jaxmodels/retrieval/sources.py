"""Resolution of a RagConfig's index fields: opens the index and the passages that they refer to.

Reference: transformers/models/rag/retrieval_rag.py, `_build_index` (docs/parity.md, A13). Everything is read from
local folders; no dataset is downloaded by name.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.messages import brief
from jaxmodels.retrieval.array_pickle import LEGACY_GRAPH, LEGACY_IDS, LEGACY_PASSAGES, legacy_passages
from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.folders import load_folder
from jaxmodels.retrieval.importers import SavedDataset
from jaxmodels.retrieval.index_files import MANIFEST
from jaxmodels.retrieval.passages import PASSAGES, Passages
from jaxmodels.tensor_files.atomic_save import is_plain_filename

PATHS = ("dataset", "passages_path", "index_path")
_DATASET = "a folder written by save_to_disk of `datasets`, with the columns title, text and embeddings"
_INDEX = f"an index folder of jaxmodels.retrieval ({MANIFEST} and {PASSAGES})"

IndexAndPassages = tuple[Any, Sequence[Any]]


def open_source(config: RagConfig) -> IndexAndPassages:
    """Opens the index and the passages of index_name, index_path, passages_path, dataset and dataset_split.

    "custom": passages_path is an index folder or a dataset folder; index_path is a faiss file or an index folder. By
      default the index or the embeddings of the passages are searched, exactly.
    "legacy": index_path is a folder with DPR's graph and its two pickles.
    "exact", "compressed": dataset is a dataset folder; index_path is a faiss file; by default "exact" searches the
      embeddings.

    Raises:
      ValueError: an unknown index_name, inconsistent fields, or an index whose width is not retrieval_vector_size.
      FileNotFoundError: a field refers to a file that does not exist; the message says what to pass.
    """
    openers: dict[str, Callable[[RagConfig], IndexAndPassages]] = {
        "custom": _open_custom,
        "legacy": _open_legacy,
        "exact": _open_canonical,
        "compressed": _open_canonical,
    }
    if config.index_name not in openers:
        raise ValueError(f"index_name must be one of {', '.join(openers)}, got {brief(config.index_name)}")
    index, passages = openers[config.index_name](config)
    if index.width != config.retrieval_vector_size:
        raise ValueError(
            f"the index has vectors of width {index.width}, but the config has retrieval_vector_size="
            f"{config.retrieval_vector_size}; if this is the right index, pass retrieval_vector_size={index.width}"
        )
    return index, passages


def resolve_paths(config: RagConfig, folder: Path) -> RagConfig:
    """Returns the config with absolute paths; relative ones start at the folder or the working directory."""
    paths = {key: _find(getattr(config, key), folder) for key in PATHS}
    return config.replace(**{key: str(path) for key, path in paths.items() if path is not None})


def dataset_index(dataset: Any) -> FaissIndex:
    """Returns the faiss index over the embeddings of a `datasets.Dataset`.

    Raises:
      TypeError: another object, or a dataset without such an index.
    """
    try:
        missing = {"title", "text"} - set(dataset.column_names)
        index = dataset.get_index("embeddings").faiss_index
    except Exception as error:  # of `datasets`, whose exceptions are unknown here
        raise TypeError(
            "indexed_dataset must be a datasets.Dataset after add_faiss_index('embeddings'), got "
            f"{brief(dataset)}: {error}"
        ) from error
    if missing:
        raise TypeError(f"indexed_dataset must have the columns title and text; it lacks {', '.join(sorted(missing))}")
    return FaissIndex(index)


def _open_custom(config: RagConfig) -> IndexAndPassages:
    if config.passages_path is None:
        raise ValueError(f"index_name='custom' requires passages_path=, {_INDEX} or {_DATASET}")
    passages = _require("passages_path", config.passages_path, f"{_INDEX} or {_DATASET}")
    if (passages / PASSAGES).is_file():
        if config.index_path is None:
            return load_folder(passages)
        return _open_index(config), Passages.load(passages)
    return _open_dataset(passages, config)


def _open_legacy(config: RagConfig) -> IndexAndPassages:
    expected = f"a folder with {LEGACY_GRAPH}, {LEGACY_IDS} and {LEGACY_PASSAGES}"
    if config.index_path is None:
        raise ValueError(f"index_name='legacy' requires index_path=, {expected}; it is not downloaded")
    folder = _require("index_path", config.index_path, expected)
    passages = Passages(legacy_passages(folder))
    return FaissIndex.load(folder / LEGACY_GRAPH, config.retrieval_vector_size), passages


def _open_canonical(config: RagConfig) -> IndexAndPassages:
    name = config.index_name
    if config.dataset is None:
        raise ValueError(f"index_name={name!r} requires dataset=, {_DATASET}")
    expected = (
        f"{_DATASET}; no dataset is downloaded by name. Or use index_name='custom' and passages_path=, or a retriever "
        "with your own index: RagRetriever(config, tokenizer, tokenizer, index=..., passages=...)"
    )
    if config.use_dummy_dataset and _find(config.dataset) is None:
        raise FileNotFoundError(
            f"use_dummy_dataset=True refers to a part of {brief(config.dataset)}: pass dataset={expected}"
        )
    folder = _require("dataset", config.dataset, expected)
    for key in ("use_dummy_dataset", "dataset_revision"):
        if getattr(config, key):
            raise ValueError(f"{key}={getattr(config, key)!r} is for a dataset of the Hub; {folder} is a folder")
    if (folder / "dataset_dict.json").is_file():
        split = config.dataset_split or ""
        if not is_plain_filename(split) or not (folder / split).is_dir():
            raise ValueError(f"dataset_split={brief(config.dataset_split)} is not one of the splits in {folder}")
        folder = folder / split
    if name == "compressed" and config.index_path is None:
        raise ValueError(
            "index_name='compressed' requires index_path=, a file written by faiss.write_index; index_name='exact' "
            "searches the dataset's embeddings"
        )
    return _open_dataset(folder, config)


def _open_dataset(folder: Path, config: RagConfig) -> IndexAndPassages:
    dataset = SavedDataset(folder)
    passages = Passages(dataset.passages())
    if config.index_path is not None:
        return _open_index(config), passages
    return DenseIndex.from_batches(dataset.embeddings(), width=config.retrieval_vector_size), passages


def _open_index(config: RagConfig) -> DenseIndex | FaissIndex:
    expected = f"a file written by faiss.write_index, or {_INDEX}"
    path = _require("index_path", config.index_path, expected)
    return DenseIndex.load(path) if path.is_dir() else FaissIndex.load(path, config.retrieval_vector_size)


def _require(key: str, value: str | None, expected: str) -> Path:
    """Returns the absolute path of a config field; raises FileNotFoundError if it does not exist."""
    found = _find(value)
    if found is None:
        raise FileNotFoundError(f"{key}={brief(value)} is neither a file nor a folder here; expected {expected}")
    return found


def _find(value: str | None, folder: Path = Path()) -> Path | None:
    """Returns an absolute path, looked up in the folder, then in the working directory; None if it does not exist."""
    if not value:
        return None
    with contextlib.suppress(OSError, ValueError):  # not a valid file name
        return next((path.resolve() for path in (folder / value, Path(value)) if path.exists()), None)
    return None
