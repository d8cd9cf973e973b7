"""Where a RagConfig says that the index and the passages lie: from its keys to both, opened.

Reference: transformers/models/rag/retrieval_rag.py, `_build_index` (docs/parity.md, A13). Everything is read from
folders here; no data set is downloaded by its name.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.messages import brief
from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.folders import load_folder
from jaxmodels.retrieval.foreign_files import SavedDataset
from jaxmodels.retrieval.legacy import GRAPH, IDS, TEXTS, legacy_passages
from jaxmodels.retrieval.manifest import MANIFEST
from jaxmodels.retrieval.passages import PASSAGES, Passages
from jaxmodels.tensor_files.atomic_save import is_plain_filename

PATHS = ("dataset", "passages_path", "index_path")
DATASET = "a folder that `datasets` wrote by save_to_disk, with the columns title, text and embeddings"
OURS = f"an index folder of jaxmodels.retrieval ({MANIFEST} and {PASSAGES})"

Found = tuple[Any, Sequence[Any]]


def open_source(config: RagConfig) -> Found:
    """The index and the passages of index_name, index_path, passages_path, dataset and dataset_split.

    "custom": passages_path, an index folder of ours or a data set's folder; index_path, a file of faiss or a folder of
      ours. Without it the passages' own index or embeddings are searched, exactly.
    "legacy": index_path, the folder of DPR's graph and its two pickles.
    "exact", "compressed": dataset, a data set's folder; index_path, a file of faiss; without it "exact" searches the
      embeddings.

    Raises:
      ValueError: another index_name, keys that do not go together, or an index of another width than
        retrieval_vector_size.
      FileNotFoundError: what a key names is not there; it says what to give.
    """
    openers: dict[str, Callable[[RagConfig], Found]] = {
        "custom": _custom,
        "legacy": _legacy,
        "exact": _canonical,
        "compressed": _canonical,
    }
    if config.index_name not in openers:
        raise ValueError(f"index_name is one of {', '.join(openers)}, got {brief(config.index_name)}")
    index, passages = openers[config.index_name](config)
    if index.width != config.retrieval_vector_size:
        raise ValueError(
            f"the index has vectors of width {index.width}, and the config says {config.retrieval_vector_size}; if it "
            f"is the right index, give retrieval_vector_size={index.width}"
        )
    return index, passages


def resolved(config: RagConfig, folder: Path) -> RagConfig:
    """The config with the paths that lie in its folder, or where the process runs, written out."""
    places = {key: _place(getattr(config, key), folder) for key in PATHS}
    return config.replace(**{key: str(place) for key, place in places.items() if place is not None})


def of_dataset_object(dataset: Any) -> FaissIndex:
    """The index that an object of the package `datasets` has of its embeddings.

    Raises:
      TypeError: no such object, or one without such an index.
    """
    try:
        columns = {"title", "text"} - set(dataset.column_names)
        index = dataset.get_index("embeddings").faiss_index
    except Exception as error:  # of `datasets`, which is not known here
        raise TypeError(
            f"indexed_dataset is a datasets.Dataset after add_faiss_index('embeddings'), got {brief(dataset)}: {error}"
        ) from error
    if columns:
        raise TypeError(f"indexed_dataset needs the columns title and text; it lacks {', '.join(sorted(columns))}")
    return FaissIndex(index)


def _custom(config: RagConfig) -> Found:
    if config.passages_path is None:
        raise ValueError(f"index_name='custom' needs passages_path=, {OURS} or {DATASET}")
    passages = _there("passages_path", config.passages_path, f"{OURS} or {DATASET}")
    if (passages / PASSAGES).is_file():
        if config.index_path is None:
            return load_folder(passages)
        return _index(config), Passages.load(passages)
    return _of_dataset(passages, config)


def _legacy(config: RagConfig) -> Found:
    wanted = f"a folder with {GRAPH}, {IDS} and {TEXTS}"
    if config.index_path is None:
        raise ValueError(f"index_name='legacy' needs index_path=, {wanted}; it is not downloaded")
    folder = _there("index_path", config.index_path, wanted)
    passages = Passages(legacy_passages(folder))
    return FaissIndex.load(folder / GRAPH, config.retrieval_vector_size), passages


def _canonical(config: RagConfig) -> Found:
    name = config.index_name
    if config.dataset is None:
        raise ValueError(f"index_name={name!r} needs dataset=, {DATASET}")
    instead = (
        f"{DATASET}; no data set is downloaded by its name. Or give index_name='custom' and passages_path=, or a "
        "retriever with an index of yours: RagRetriever(config, tokenizer, tokenizer, index=..., passages=...)"
    )
    if config.use_dummy_dataset and _place(config.dataset) is None:
        raise FileNotFoundError(f"use_dummy_dataset=True is a part of {brief(config.dataset)}: give dataset={instead}")
    folder = _there("dataset", config.dataset, instead)
    for key in ("use_dummy_dataset", "dataset_revision"):
        if getattr(config, key):
            raise ValueError(f"{key}={getattr(config, key)!r} is for a data set of the Hub; {folder} is a folder")
    if (folder / "dataset_dict.json").is_file():
        split = config.dataset_split or ""
        if not is_plain_filename(split) or not (folder / split).is_dir():
            raise ValueError(f"dataset_split={brief(config.dataset_split)} is none of the splits in {folder}")
        folder = folder / split
    if name == "compressed" and config.index_path is None:
        raise ValueError(
            "index_name='compressed' needs index_path=, a file that faiss.write_index wrote; index_name='exact' "
            "searches the data set's embeddings"
        )
    return _of_dataset(folder, config)


def _of_dataset(folder: Path, config: RagConfig) -> Found:
    dataset = SavedDataset(folder)
    passages = Passages(dataset.passages())
    if config.index_path is not None:
        return _index(config), passages
    return DenseIndex.from_batches(dataset.embeddings(), width=config.retrieval_vector_size), passages


def _index(config: RagConfig) -> Any:
    wanted = f"a file that faiss.write_index wrote, or {OURS}"
    path = _there("index_path", config.index_path, wanted)
    return DenseIndex.load(path) if path.is_dir() else FaissIndex.load(path, config.retrieval_vector_size)


def _there(key: str, value: str | None, wanted: str) -> Path:
    """The file or folder of a key."""
    found = _place(value)
    if found is None:
        raise FileNotFoundError(f"{key}={brief(value)} is neither a file nor a folder here; it is {wanted}")
    return found


def _place(value: str | None, folder: Path = Path()) -> Path | None:
    """Absolute, in the folder or else from here; None where there is nothing."""
    if not value:
        return None
    with contextlib.suppress(OSError, ValueError):  # no name that a file can have
        return next((place.resolve() for place in (folder / value, Path(value)) if place.exists()), None)
    return None
