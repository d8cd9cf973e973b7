"""Passage embeddings as arrays on the devices, and maximum inner product search over them.

Source of the task: Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering" (2020), section 3.
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from jaxmodels.processes import on_first_process
from jaxmodels.retrieval.building import IndexBuilder, build, chunks, row_ranges
from jaxmodels.retrieval.index_files import SHARD_BYTES, IndexFiles, write_index
from jaxmodels.retrieval.rows import (
    EncodedRows,
    Layout,
    decode_rows,
    encode_rows,
    gather_rows,
    gather_stored,
    is_traced,
    make_layout,
    scatter_rows,
    validate_dtype,
    validate_embeddings,
    validate_ids,
    validate_queries,
)
from jaxmodels.retrieval.search import search
from jaxmodels.tensor_files.atomic_save import atomic_save

_scatter_in_place = jax.jit(scatter_rows, static_argnums=0, donate_argnums=(1, 2))


@jax.tree_util.register_pytree_node_class
class DenseIndex:
    """An index of rows [N, D] for maximum inner product search; a pytree, to be passed as an argument into `jax.jit`.

    Attributes:
      values: [stored rows, D] in `dtype`, sharded over the mesh; rows from `size` on are padding.
      scales: [stored rows] float32, for int8 only: a row is `scale * values`.
      layout: sharding of the rows.
      fingerprint: of the encoder that computed the rows (see `fingerprint`), or None.
      passages: digest of the passages that the rows embed (`Passages.digest`), or None.
    """

    layout: Layout
    values: jax.Array
    scales: jax.Array | None
    fingerprint: str | None
    passages: str | None

    def __init__(
        self,
        embeddings: ArrayLike,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype: DTypeLike = "float32",
        fingerprint: str | None = None,
    ):
        """Creates an index from a copy of the embeddings; `from_batches` builds one without a second copy.

        Also works under `jax.jit`.

        Args:
          embeddings: [N, D], real numbers.
          mesh: mesh to shard the rows over.
          axes: mesh axes to shard the rows over; all by default.
          dtype: storage dtype: float32, bfloat16, or int8 with one scale per row.
          fingerprint: of the encoder.

        Raises:
          ValueError: embeddings of another rank or not finite, or an unknown dtype or mesh axis.
        """
        storage = validate_dtype(dtype)
        array = validate_embeddings(embeddings)
        rows, width = array.shape
        if is_traced(array):
            layout = make_layout(rows, mesh, axes)
            padded = jnp.pad(array, ((0, layout.stored_rows - rows), (0, 0)))
            values, scales = jax.tree.map(partial(_constrain, layout), encode_rows(padded, storage))
        else:
            layout, values, scales = build(chunks(array), rows, width, mesh, axes, storage)
        self._set(layout, values, scales, fingerprint, None)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[ArrayLike],
        rows: int | None = None,
        width: int | None = None,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype: DTypeLike = "float32",
        fingerprint: str | None = None,
    ) -> Self:
        """Builds an index from batches [n, D] in order; each is transferred before the next one is requested.

        If several processes share the mesh, each must iterate over all batches; it stores its own rows only.

        Args:
          batches: embeddings [n, D], real numbers.
          rows: total number of rows. If None, the rows are buffered in a temporary file until it is known.
          width: expected D; by default that of the first batch.
          mesh: see the constructor.
          axes: see the constructor.
          dtype: see the constructor.
          fingerprint: see the constructor.

        Raises:
          ValueError: batches of different widths, a wrong total number of rows, or numbers that are not finite.
        """
        return cls._new(*build(batches, rows, width, mesh, axes, validate_dtype(dtype)), fingerprint, None)

    @classmethod
    def abstract(
        cls,
        rows: int,
        width: int,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype: DTypeLike = "float32",
    ) -> Self:
        """Returns an index of `jax.ShapeDtypeStruct`s, for ahead-of-time compilation (see `jaxmodels.estimate`)."""
        layout, storage = make_layout(rows, mesh, axes), validate_dtype(dtype)
        values = jax.ShapeDtypeStruct((layout.stored_rows, width), storage, sharding=layout.sharding)
        scales = jax.ShapeDtypeStruct((layout.stored_rows,), jnp.float32, sharding=layout.sharding)
        return cls._new(layout, values, scales if storage == np.int8 else None, None, None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Self:
        """Loads a saved index straight onto the devices; each process reads its own rows only.

        Args:
          folder: folder written by `save`.
          mesh: any mesh, independent of the one it was saved from.
          axes: mesh axes to shard the rows over; all by default.
          dtype: storage dtype; None keeps that of the files.

        Raises:
          FileNotFoundError: there is no index.
          TensorFileError: the manifest does not match its shards, or a shard is damaged.
        """
        return cls.from_files(IndexFiles(folder), mesh, axes, dtype)

    @classmethod
    def from_files(
        cls,
        files: IndexFiles,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Self:
        """Loads an opened index; see `load`."""
        saved = files.manifest
        layout = make_layout(saved.rows, mesh, axes)
        builder = IndexBuilder(layout, saved.width, saved.dtype if dtype is None else validate_dtype(dtype))
        for rows in builder.row_ranges():
            for first, part in files.read(rows):
                if builder.dtype != saved.dtype:
                    part = encode_rows(decode_rows(*part), builder.dtype)
                builder.write(first, *part)
        return cls._new(layout, *builder.arrays(), saved.fingerprint, saved.passages)

    def save(self, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Writes a manifest and shards of at most `shard_bytes`, atomically; other files in `folder` stay.

        If the save is interrupted, the folder holds either the previous index or the new one. With several processes,
        all must call this; the first one writes, and the others wait.
        """
        parts = map(self._read_stored, row_ranges(0, self.size, self.width * self.dtype.itemsize))

        def write() -> None:
            with atomic_save(Path(folder), "index") as staging:
                write_index(staging, parts, self.width, self.dtype, self.fingerprint, self.passages, shard_bytes)

        on_first_process(write, parts)

    def _read_stored(self, rows: range) -> EncodedRows:
        ids = self._replicate(np.arange(rows.start, rows.stop, dtype=np.int32))
        with self._context():
            values = np.asarray(gather_stored(self.layout, self.values, ids))
            return values, None if self.scales is None else np.asarray(gather_stored(self.layout, self.scales, ids))

    @classmethod
    def _new(cls, layout: Layout, values: Any, scales: Any, fingerprint: str | None, passages: str | None) -> Self:
        index = object.__new__(cls)
        index._set(layout, values, scales, fingerprint, passages)
        return index

    def _set(self, layout: Layout, values: Any, scales: Any, fingerprint: str | None, passages: str | None) -> None:
        self.layout, self.values, self.scales = layout, values, scales
        self.fingerprint, self.passages = fingerprint, passages

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[Layout, str | None, str | None]]:
        """Flattens into (arrays, static data)."""
        return (self.values, self.scales), (self.layout, self.fingerprint, self.passages)

    @classmethod
    def tree_unflatten(cls, static: tuple[Layout, str | None, str | None], arrays: tuple[Any, Any]) -> Self:
        """Reverses `tree_flatten`."""
        (layout, *names), (values, scales) = static, arrays
        return cls._new(layout, values, scales, *names)

    def with_fingerprint(self, fingerprint: str | None) -> Self:
        """Returns the same index with another fingerprint, for use after `update_rows` has replaced all rows."""
        return self._new(self.layout, self.values, self.scales, fingerprint, self.passages)

    def with_passages(self, passages: str | None) -> Self:
        """Returns the same index for the passages with this `Passages.digest` (see `check_passages`)."""
        return self._new(self.layout, self.values, self.scales, self.fingerprint, passages)

    def check_encoder(self, fingerprint: str) -> None:
        """Raises ValueError if the index is known to come from another encoder (see `fingerprint`)."""
        if self.fingerprint not in (None, fingerprint):
            raise ValueError(
                f"this index was built by the encoder {self.fingerprint}, got the encoder {fingerprint}: encode the "
                "passages again, or load the encoder that the index was built by"
            )

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.layout.rows

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Storage dtype of the rows."""
        return np.dtype(self.values.dtype)

    def __repr__(self) -> str:
        return f"DenseIndex({self.size} x {self.width}, {self.dtype}, {self.layout.shards} shards)"

    def search(self, queries: ArrayLike, k: int) -> tuple[jax.Array, jax.Array]:
        """Finds the k rows with the largest inner product for each query.

        Scores are inner products of the stored rows (rounded to bfloat16 or int8) with float32 queries, accumulated in
        float32. Results do not depend on the number of devices.

        Args:
          queries: [B, D] real numbers.
          k: number of results, at most `size`.

        Returns:
          Scores [B, k] float32 in descending order and ids [B, k] int32; equal scores are ordered by id.

        Raises:
          ValueError: queries of another width, or k above the number of rows.
        """
        array = self._replicate(validate_queries(queries, k, self.size, self.width))
        with self._context(array):
            return search(self.layout, self.values, self.scales, array, k)

    def search_approximate(
        self, queries: ArrayLike, k: int, recall_target: float = 0.95
    ) -> tuple[jax.Array, jax.Array]:
        """Like `search`, but finds each true result with probability `recall_target`; faster on TPUs.

        Source: Chern et al., "TPU-KNN: K Nearest Neighbor Search at Peak FLOP/s" (2022).
        """
        if not 0 < recall_target < 1:
            raise ValueError(f"recall_target must be between 0 and 1, exclusive, got {recall_target}; for 1 use search")
        array = self._replicate(validate_queries(queries, k, self.size, self.width))
        with self._context(array):
            return search(self.layout, self.values, self.scales, array, k, recall_target=recall_target)

    def _replicate(self, array: ArrayLike) -> jax.Array:
        """Replicates an array over the devices of the index, unless it is traced."""
        if self.layout.mesh is None or is_traced(array):
            return jnp.asarray(array)
        return jax.device_put(array, NamedSharding(self.layout.mesh, PartitionSpec()))

    def _context(self, *arrays: Any) -> contextlib.AbstractContextManager:
        return self.layout.context(is_traced(self, *arrays))

    def vectors(self, ids: ArrayLike) -> jax.Array:
        """Returns rows [..., D] float32 of integer ids [...]; zeros for -1 (a missing hit).

        Raises:
          ValueError: ids below -1 or from `size` on. Under `jax.jit` they give zeros.
        """
        array = self._replicate(validate_ids(ids, -1, self.size))
        with self._context(array):
            return gather_rows(self.layout, self.values, self.scales, array)

    def update_rows(self, ids: ArrayLike, embeddings: ArrayLike) -> Self:
        """Returns the index with some rows replaced.

        The arrays of this index are donated; continue with the returned one. Under `jax.jit`, donate the index to
        update it in place.

        Args:
          ids: [n] distinct ids, or the first of n consecutive ids.
          embeddings: [n, D] real numbers.

        Raises:
          ValueError: ids out of range, embeddings of another shape or not finite. Under `jax.jit`, rows for ids out of
            range are dropped.
        """
        rows = validate_embeddings(embeddings, self.width)
        if np.ndim(ids) == 0:
            ids = ids + np.arange(len(rows), dtype=np.int32)
        array = validate_ids(ids, 0, self.size)
        if array.shape != (len(rows),):
            raise ValueError(f"expected one id for each of {len(rows)} rows, or the first id, got shape {array.shape}")
        array, rows = self._replicate(array), self._replicate(rows)
        update = scatter_rows if is_traced(self, array, rows) else _scatter_in_place
        with self._context(array, rows):
            values, scales = update(self.layout, self.values, self.scales, array, rows)
        return self._new(self.layout, values, scales, self.fingerprint, self.passages)


def _constrain(layout: Layout, array: jax.Array) -> jax.Array:
    return array if layout.sharding is None else jax.lax.with_sharding_constraint(array, layout.sharding)
