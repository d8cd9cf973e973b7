"""An index and its passages in one folder: written together, and loaded as they were written."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxmodels.retrieval.building import checked
from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.index_files import SHARD_BYTES, IndexFiles, write_index
from jaxmodels.retrieval.passages import Passages, write_passages
from jaxmodels.retrieval.rows import checked_dtype, stored
from jaxmodels.tensor_files.atomic_save import atomic_save, read_snapshot


def write_folder(
    folder: str | Path,
    batches: Iterable[np.ndarray],
    passages: Iterable[tuple[str, str]],
    dtype="float32",
    fingerprint: str | None = None,
) -> None:
    """An index folder of embeddings [n, D], batch by batch, and their (title, text); no device is used.

    Raises:
      ValueError: embeddings that `DenseIndex` refuses, or another number of passages than of embeddings.
    """
    dtype, rows = checked_dtype(dtype), checked(batches, None)
    first = next(rows, None)
    if first is None:
        raise ValueError("there are no embeddings: an index has at least one row")
    parts = (stored(batch, dtype) for batch in itertools.chain([first], rows))
    with atomic_save(Path(folder), "index", "passages") as staging:
        texts, digest = write_passages(staging, passages)
        vectors = write_index(staging, parts, first.shape[1], dtype, fingerprint, digest, SHARD_BYTES)
        if vectors != texts:
            raise ValueError(f"{vectors} embeddings came with {texts} passages; every row needs its own passage")


def load_folder(
    folder: str | Path, mesh: Mesh | None = None, axes: str | tuple[str, ...] | None = None, dtype=None
) -> tuple[DenseIndex, Passages]:
    """The index and the passages of a folder, both of one save, whatever else is saved there meanwhile.

    Args:
      mesh, axes, dtype: see `DenseIndex.load`.

    Raises:
      ValueError: they do not belong together (see `check_passages`); and what `DenseIndex.load` and `Passages.load`
        raise.
    """
    files, passages = read_snapshot(folder, lambda saved: (IndexFiles(saved), Passages.load(saved)))
    index = DenseIndex.of_files(files, mesh, axes, dtype)
    check_passages(index, passages)
    return index, passages


def check_passages(index: Any, passages: Sequence[Any]) -> None:
    """Whether the rows of an index are those of the passages, as far as it can be told.

    An index that was written together with its passages knows their digest (`DenseIndex.passages`); any other is
    only compared in size.

    Raises:
      ValueError: another number of passages than of rows, or other passages.
    """
    if len(passages) != index.size:
        raise ValueError(f"the index has {index.size} rows, and there are {len(passages)} passages; one for each")
    wanted, found = getattr(index, "passages", None), getattr(passages, "digest", None)
    if wanted is not None and found is not None and wanted != found:
        raise ValueError(
            f"the index was written for the passages {wanted[:16]}..., and these are {found[:16]}...: load both by "
            "load_folder, or encode these passages again; if it is their index, index.with_passages(passages.digest) "
            "says so"
        )
