"""The passages' embeddings as arrays on the devices, and the search among them.

Source of the task: Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering" (2020), section 3.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.processes import on_first_process
from jaxmodels.retrieval.arguments import checked_ids, checked_queries, checked_rows, traced
from jaxmodels.retrieval.building import build, pieces
from jaxmodels.retrieval.filling import Filling, ranges
from jaxmodels.retrieval.index_files import SHARD_BYTES, IndexFiles, write_index
from jaxmodels.retrieval.layout import Layout, make_layout
from jaxmodels.retrieval.rows import Stored, checked_dtype, gathered, replaced, restored, stored, taken
from jaxmodels.retrieval.search import search
from jaxmodels.tensor_files.atomic_save import atomic_save

_replaced_in_place = jax.jit(replaced, static_argnums=0, donate_argnums=(1, 2))


@jax.tree_util.register_pytree_node_class
class DenseIndex:
    """Rows [N, D] that are searched by inner product: a pytree of arrays, to be passed into `jax.jit`.

    Attributes:
      values: [stored rows, D] in `dtype`, split over the mesh; rows from `size` on are padding.
      scales: [stored rows] float32, for int8 only: a row is `scale * values`.
      layout: which device holds which rows.
      fingerprint: names the encoder that the rows come from (see `fingerprint`), or None.
      passages: names the passages that the rows are of (`Passages.digest`), or None.
    """

    def __init__(
        self,
        embeddings,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype="float32",
        fingerprint: str | None = None,
    ):
        """Copies the rows; `from_batches` builds without a second copy. Works under `jax.jit` too.

        Args:
          embeddings: [N, D], real numbers, a numpy or JAX array.
          mesh, axes: the mesh, and the axes of it that rows are split over (all of them by default).
          dtype: how rows are stored: float32, bfloat16, or int8 with one scale a row.

        Raises:
          ValueError: embeddings of another rank or not finite, or an unknown dtype or mesh axis.
        """
        dtype = checked_dtype(dtype)
        embeddings = checked_rows(embeddings)
        rows, width = embeddings.shape
        if traced(embeddings):
            layout = make_layout(rows, mesh, axes)
            padded = jnp.pad(embeddings, ((0, layout.stored_rows - rows), (0, 0)))
            values, scales = jax.tree.map(partial(_constrained, layout), stored(padded, dtype))
        else:
            layout, values, scales = build(pieces(embeddings), rows, width, mesh, axes, dtype)
        self._set(layout, values, scales, fingerprint, None)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable,
        rows: int | None = None,
        width: int | None = None,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype="float32",
        fingerprint: str | None = None,
    ) -> Self:
        """From batches [n, D] in order, each put in place before the next one is asked for.

        Where several processes share the mesh, each goes through all batches and keeps its own rows.

        Args:
          rows: the sum of all n. Where it is not known, the rows wait in a temporary file until it is.
          width: D, as a check; by default that of the first batch.

        Raises:
          ValueError: batches of another width, another number of rows in all, numbers that are not finite.
        """
        return cls._of(*build(batches, rows, width, mesh, axes, checked_dtype(dtype)), fingerprint, None)

    @classmethod
    def abstract(
        cls,
        rows: int,
        width: int,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype="float32",
    ) -> Self:
        """An index of shapes only, to compile a search for machines that are not here (see `jaxmodels.estimate`)."""
        layout, dtype = make_layout(rows, mesh, axes), checked_dtype(dtype)
        values = jax.ShapeDtypeStruct((layout.stored_rows, width), dtype, sharding=layout.sharding)
        scales = jax.ShapeDtypeStruct((layout.stored_rows,), jnp.float32, sharding=layout.sharding)
        return cls._of(layout, values, scales if dtype == np.int8 else None, None, None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        mesh: Mesh | None = None,
        axes: str | tuple[str, ...] | None = None,
        dtype=None,
    ) -> Self:
        """A saved index, from its files straight onto the devices: each reads its own rows only.

        Args:
          mesh, axes: any, whatever it was saved from. dtype: None leaves the rows as they were stored.

        Raises:
          FileNotFoundError: no index there.
          TensorFileError: a manifest that disagrees with its shards, or a damaged shard.
        """
        return cls.of_files(IndexFiles(folder), mesh, axes, dtype)

    @classmethod
    def of_files(
        cls, files: IndexFiles, mesh: Mesh | None = None, axes: str | tuple[str, ...] | None = None, dtype=None
    ) -> Self:
        """As `load`, of an index that is opened."""
        saved = files.manifest
        layout = make_layout(saved.rows, mesh, axes)
        filling = Filling(layout, saved.width, saved.dtype if dtype is None else checked_dtype(dtype))
        for places in filling.ranges():
            for first, part in files.read(places):
                filling.put(first, *(part if filling.dtype == saved.dtype else stored(restored(*part), filling.dtype)))
        return cls._of(layout, *filling.arrays(), saved.fingerprint, saved.passages)

    def save(self, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Writes a manifest and shards of at most `shard_bytes` of rows; other files in `folder` stay.

        A save that is killed leaves the earlier index or the new one, never a mixture. With several processes, all must
        call this; the first one writes, and none goes on before all is written.
        """
        parts = map(self._stored_rows, ranges(0, self.size, self.width * self.dtype.itemsize))

        def write() -> None:
            with atomic_save(Path(folder), "index") as staging:
                facts = self.width, self.dtype, self.fingerprint, self.passages
                write_index(staging, parts, *facts, shard_bytes)

        on_first_process(write, parts)

    def _stored_rows(self, places: range) -> Stored:
        ids = self._everywhere(np.arange(places.start, places.stop, dtype=np.int32))
        return tuple(None if x is None else np.asarray(taken(self.layout, x, ids)) for x in (self.values, self.scales))

    @classmethod
    def _of(cls, layout: Layout, values, scales, fingerprint: str | None, passages: str | None) -> Self:
        index = object.__new__(cls)
        index._set(layout, values, scales, fingerprint, passages)
        return index

    def _set(self, layout: Layout, values, scales, fingerprint: str | None, passages: str | None) -> None:
        self.layout, self.values, self.scales = layout, values, scales
        self.fingerprint, self.passages = fingerprint, passages

    def tree_flatten(self):
        return (self.values, self.scales), (self.layout, self.fingerprint, self.passages)

    @classmethod
    def tree_unflatten(cls, fixed, arrays) -> Self:
        (layout, *names), (values, scales) = fixed, arrays
        return cls._of(layout, values, scales, *names)

    def with_fingerprint(self, fingerprint: str | None) -> Self:
        """The same arrays under another encoder's name, after `update_rows` has replaced them all."""
        return self._of(self.layout, self.values, self.scales, fingerprint, self.passages)

    def with_passages(self, passages: str | None) -> Self:
        """The same arrays, known as those of the passages with this `Passages.digest` (see `check_passages`)."""
        return self._of(self.layout, self.values, self.scales, self.fingerprint, passages)

    def check_encoder(self, fingerprint: str) -> None:
        """Raises ValueError where the index is known to come from another encoder than that (see `fingerprint`)."""
        if self.fingerprint not in (None, fingerprint):
            raise ValueError(
                f"this index was built by the encoder {self.fingerprint}, and the encoder here is {fingerprint}: "
                "encode the passages again, or load the encoder that the index was built by"
            )

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.layout.rows

    @property
    def width(self) -> int:
        return self.values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """How the rows are stored."""
        return np.dtype(self.values.dtype)

    def __repr__(self) -> str:
        return f"DenseIndex({self.size} x {self.width}, {self.dtype}, {self.layout.shards} shards)"

    def search(self, queries, k: int) -> tuple[jax.Array, jax.Array]:
        """The k rows of largest inner product for each query: scores [B, k] float32, largest first, ids [B, k] int32.

        Equal scores are in order of their ids. Scores are those of the stored rows (rounded to bfloat16 or int8) with
        float32 queries, summed in float32. The same on any number of devices.

        Args:
          queries: [B, D] real numbers.
          k: at most `size`.

        Raises:
          ValueError: queries of another width, k above the number of rows.
        """
        queries = self._everywhere(checked_queries(queries, k, self.size, self.width))
        return search(self.layout, self.values, self.scales, queries, k)

    def search_approximate(self, queries, k: int, recall_target: float = 0.95) -> tuple[jax.Array, jax.Array]:
        """As `search`, but each true result is found only with this probability; a TPU is faster at it.

        Source: Chern et al., "TPU-KNN: K Nearest Neighbor Search at Peak FLOP/s" (2022).
        """
        if not 0 < recall_target < 1:
            raise ValueError(f"recall_target is between 0 and 1, both excluded, got {recall_target}; 1 is `search`")
        queries = self._everywhere(checked_queries(queries, k, self.size, self.width))
        return search(self.layout, self.values, self.scales, queries, k, recall_target=recall_target)

    def _everywhere(self, array):
        """Whole on every device of the index, for what comes from outside of `jax.jit`."""
        if self.layout.mesh is None or traced(array):
            return jnp.asarray(array)
        return jax.device_put(array, NamedSharding(self.layout.mesh, PartitionSpec()))

    def vectors(self, ids) -> jax.Array:
        """Rows [..., D] float32 of integer ids [...]; zeros for -1 (a missing hit).

        Raises:
          ValueError: ids below -1 or from `size` on. Under `jax.jit` they give zeros.
        """
        ids = self._everywhere(checked_ids(ids, -1, self.size))
        return gathered(self.layout, self.values, self.scales, ids)

    def update_rows(self, ids, embeddings) -> Self:
        """The index with other rows in some places. Under `jax.jit` donate the index, and it is done in place; outside,
        this index's own arrays are given up: go on with the returned one.

        Args:
          ids: [n] distinct places, or the first of n places in a row.
          embeddings: [n, D] real numbers.

        Raises:
          ValueError: places that the index does not have, embeddings of another shape or not finite. Under `jax.jit`
            rows for places outside of the index are dropped.
        """
        embeddings = checked_rows(embeddings, self.width)
        if np.ndim(ids) == 0:
            ids = ids + np.arange(len(embeddings), dtype=np.int32)
        ids = checked_ids(ids, 0, self.size)
        if ids.shape != (len(embeddings),):
            raise ValueError(f"one place for each of {len(embeddings)} rows, or the first of them, got {ids.shape}")
        ids, embeddings = self._everywhere(ids), self._everywhere(embeddings)
        update = replaced if traced(self, ids, embeddings) else _replaced_in_place
        arrays = update(self.layout, self.values, self.scales, ids, embeddings)
        return self._of(self.layout, *arrays, self.fingerprint, self.passages)


def _constrained(layout: Layout, array):
    return array if layout.mesh is None else jax.lax.with_sharding_constraint(array, layout.sharding)
