"""faiss behind the methods of `DenseIndex`, for indexes that exist already; it searches on the host."""

import os
from pathlib import Path
from types import ModuleType
from typing import Self

import numpy as np

from jaxmodels.messages import truncate
from jaxmodels.tensor_files import TensorFileError


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("FaissIndex needs faiss: pip install 'jaxmodels[faiss]'") from error
    return faiss


class FaissIndex:
    """Any faiss index that can give its vectors back. Not a pytree: `search` and `vectors` do not run under `jax.jit`.

    Attributes:
      index: of faiss.
      width: of queries and vectors. One less than faiss's own where DPR has added a dimension that turns inner products
        into L2 distances (its HNSW indexes): it is 0 in a query, and left out of vectors.
    """

    def __init__(self, index, width: int | None = None):
        """Raises ValueError where `width` is neither the index's own nor one less."""
        self.index, self.width = index, index.d if width is None else width
        if index.d not in (self.width, self.width + 1):
            raise ValueError(f"the vectors of this index have width {index.d}, expected {self.width} or one more")

    @classmethod
    def load(cls, path: str | Path, width: int | None = None) -> Self:
        """What faiss.write_index wrote; flat ones are memory-mapped. Only open files that you trust: faiss does not
        guard itself against hostile ones.

        Raises:
          FileNotFoundError: no such file. TensorFileError: faiss does not read it. ValueError: another width.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no faiss index: there is no file {path}")
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise TensorFileError(
                path, "an index that faiss.write_index wrote", truncate(str(error)), "write it again"
            ) from None
        return cls(index, width)

    def save(self, path: str | Path) -> None:
        """Writes the file, all or nothing."""
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

    def search(self, queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `DenseIndex.search`, as well as this index finds them: scores are inner products, largest first, and a hit
        that is missing has the id -1 and the score minus infinity.

        Raises:
          ValueError: queries of another width, k above the number of rows.
        """
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise ValueError(f"queries are [batch, {self.width}], got an array of shape {queries.shape}")
        if not 1 <= k <= self.size:
            raise ValueError(f"k is between 1 and the {self.size} rows of this index, got {k!r}")
        extra = np.zeros((len(queries), self.index.d - self.width), np.float32)
        scores, ids = self.index.search(np.concatenate([queries, extra], axis=1), int(k))
        if self.index.metric_type != _faiss().METRIC_INNER_PRODUCT:
            scores = np.einsum("bd,bkd->bk", queries, self.vectors(ids))
        scores = np.where(ids < 0, -np.inf, scores)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1).astype(np.int32)

    def vectors(self, ids) -> np.ndarray:
        """Rows [..., D] float32 of ids [...], as exactly as this index keeps them; zeros for -1.

        Raises:
          ValueError: ids below -1 or from `size` on.
        """
        ids = np.asarray(ids)
        if ids.size and not -1 <= ids.min() <= ids.max() < self.size:
            raise ValueError(f"ids are between -1 and {self.size - 1}, got {ids.min()} to {ids.max()}")
        flat = ids.reshape(-1).astype(np.int64)
        found = self.index.reconstruct_batch(np.maximum(flat, 0))[:, : self.width]
        return np.where(flat[:, None] >= 0, found, 0).reshape(*ids.shape, self.width)
