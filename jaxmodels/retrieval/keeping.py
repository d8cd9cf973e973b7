"""A retriever's index and passages in the folder of its config, and the keys that find them there again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.passages import write_passages
from jaxmodels.tensor_files.atomic_save import atomic_save

FOLDER, FAISS = "index", "index.faiss"


def keep(folder: Path, index: Any, passages: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Writes both into the folder; returns the keys of a RagConfig, with paths that are relative to it.

    Raises:
      TypeError: an index that cannot be written.
    """
    if not isinstance(index, DenseIndex | FaissIndex):
        raise TypeError(
            f"a DenseIndex or a FaissIndex can be saved, this retriever has a {type(index).__name__}; save it "
            "yourself, and make the retriever by RagRetriever(config, ..., index=..., passages=...)"
        )
    with atomic_save(folder / FOLDER, "index", "passages") as staging:
        _, digest = write_passages(staging, passages)
        if isinstance(index, DenseIndex):
            index.with_passages(digest).save(staging)
    if isinstance(index, FaissIndex):
        index.save(folder / FAISS)
    return {
        "index_name": "custom",
        "passages_path": FOLDER,
        "index_path": FAISS if isinstance(index, FaissIndex) else None,
        "retrieval_vector_size": index.width,
    }
