"""A faiss index with the interface of `DenseIndex`, for existing indexes; it searches on the host."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from jaxmodels.messages import truncate
from jaxmodels.tensor_files import TensorFileError


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("FaissIndex requires faiss: pip install 'jaxmodels[faiss]'") from error
    return faiss


class FaissIndex:
    """Any faiss index that can reconstruct its vectors. Not a pytree: its methods do not run under `jax.jit`.

    Attributes:
      index: the faiss index.
      width: dimension of queries and vectors. DPR's HNSW indexes have an additional dimension that turns inner products
        into L2 distances; then this is one less than faiss's, queries are padded with 0 and vectors truncated.
    """

    def __init__(self, index: Any, width: int | None = None):
        """Wraps a faiss index; raises ValueError unless `width` is None, the dimension of the index or one less."""
        self.index, self.width = index, index.d if width is None else width
        if index.d not in (self.width, self.width + 1):
            raise ValueError(f"the vectors of this index have width {index.d}, expected {self.width} or one more")

    @classmethod
    def load(cls, path: str | Path, width: int | None = None) -> Self:
        """Loads a file written by faiss.write_index; flat indexes are memory-mapped.

        Only open files that you trust: faiss is not hardened against malicious ones.

        Raises:
          FileNotFoundError: there is no such file.
          TensorFileError: faiss cannot read it.
          ValueError: a wrong width.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no faiss index: file {path} does not exist")
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise TensorFileError(
                path, "an index written by faiss.write_index", truncate(str(error)), "write it again"
            ) from None
        return cls(index, width)

    def save(self, path: str | Path) -> None:
        """Writes the index to a file, atomically."""
        path = Path(path)
        draft = path.with_name(f".{path.name}.draft")
        try:
            _faiss().write_index(self.index, str(draft))
            os.replace(draft, path)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {truncate(str(error))}") from None
        finally:
            draft.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.index.ntotal

    def search(self, queries: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k best rows for queries [B, D], as accurately as this index does; see `DenseIndex.search`.

        Returns:
          Inner products [B, k] float32 in descending order and ids [B, k] int32; a missing hit has the id -1 and the
          score minus infinity.

        Raises:
          ValueError: queries of another width, or k above the number of rows.
        """
        array = np.asarray(queries, np.float32)
        if array.ndim != 2 or array.shape[1] != self.width:
            raise ValueError(f"queries must have shape [batch, {self.width}], got shape {array.shape}")
        if not 1 <= k <= self.size:
            raise ValueError(f"k must be between 1 and the {self.size} rows of this index, got {k!r}")
        padding = np.zeros((len(array), self.index.d - self.width), np.float32)
        scores, ids = self.index.search(np.concatenate([array, padding], axis=1), int(k))
        if self.index.metric_type != _faiss().METRIC_INNER_PRODUCT:
            scores = np.einsum("bd,bkd->bk", array, self.vectors(ids))
        scores = np.where(ids < 0, -np.inf, scores)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1).astype(np.int32)

    def vectors(self, ids: ArrayLike) -> np.ndarray:
        """Returns rows [..., D] float32 of ids [...], as accurately as this index stores them; zeros for -1.

        Raises:
          ValueError: ids below -1 or from `size` on.
        """
        array = np.asarray(ids)
        if array.size and not -1 <= array.min() <= array.max() < self.size:
            raise ValueError(f"ids must be between -1 and {self.size - 1}, got {array.min()} to {array.max()}")
        flat = array.reshape(-1).astype(np.int64)
        found = self.index.reconstruct_batch(np.maximum(flat, 0))[:, : self.width]
        return np.where(flat[:, None] >= 0, found, 0).reshape(*array.shape, self.width)
