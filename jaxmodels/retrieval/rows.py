"""The rows of an index: argument validation, sharding over a mesh, storage dtypes, gather and scatter."""

import contextlib
import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import ArrayLike, DTypeLike

from jaxmodels.messages import brief

Array = jax.Array | np.ndarray

# Each shard holds a multiple of this many rows. Whole tiles of a matrix product make the score of a row independent of
# its position, so that equal rows have equal scores on any number of devices.
TILE = 128
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}

# Values [n, D] in the storage dtype and, for int8 only, scales [n] float32.
EncodedRows = tuple[np.ndarray, np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Layout:
    """`rows` rows, sharded in order over the mesh axes `axes`; without a mesh, all on JAX's default device."""

    rows: int
    mesh: Mesh | None = None
    axes: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes) if self.mesh else 1

    @property
    def shard_rows(self) -> int:
        """Rows per shard, including padding."""
        return -(-self.rows // (self.shards * TILE)) * TILE

    @property
    def stored_rows(self) -> int:
        """Total number of rows, including padding."""
        return self.shards * self.shard_rows

    @property
    def spec(self) -> PartitionSpec:
        """Partitioning of arrays [stored_rows, ...]."""
        return PartitionSpec(self.axes)

    @property
    def sharding(self) -> Sharding | None:
        """Sharding of arrays [stored_rows, ...]; None for uncommitted arrays on the default device."""
        return NamedSharding(self.mesh, self.spec) if self.mesh else None

    def context(self, traced: bool) -> contextlib.AbstractContextManager:
        """Makes the mesh of the index the context mesh, in place of that of `sharding.use` around it."""
        if self.mesh is None or jax.sharding.get_abstract_mesh().empty:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh) if traced else jax.set_mesh(self.mesh)

    @property
    def platform(self) -> str:
        """Platform of the devices that hold the rows."""
        return self.mesh.devices.flat[0].platform if self.mesh else jax.default_backend()


def make_layout(rows: int, mesh: Mesh | None, axes: str | tuple[str, ...] | None) -> Layout:
    """Creates the layout of an index.

    Args:
      rows: number of rows.
      mesh: mesh to shard over, or None.
      axes: mesh axes to shard the rows over; None for all of them.

    Raises:
      ValueError: axes that the mesh does not have, or more rows than int32 ids can address.
    """
    if not 1 <= rows < 2**31:
        raise ValueError(f"an index must have between 1 and {2**31 - 1} rows (ids are int32), got {rows}")
    if mesh is None:
        if axes is not None:
            raise ValueError(f"axes={axes!r} requires a mesh; pass mesh=")
        return Layout(rows)
    axes = tuple(mesh.axis_names) if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
    if unknown := [axis for axis in axes if axis not in mesh.shape]:
        raise ValueError(f"no axis {unknown[0]!r} in the mesh, which has {dict(mesh.shape)}")
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(f"axes must name the mesh axes to shard the rows over, without duplicates; got {axes}")
    return Layout(rows, mesh, axes)


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def validate_embeddings(embeddings: ArrayLike, width: int | None = None, start: int = 0) -> Array:
    """Returns embeddings [N, D] as an array, after checking rank, dtype and, unless traced, finiteness.

    Args:
      embeddings: array [N, D] of real numbers.
      width: expected D, or None for any.
      start: index of the first row, for error messages.

    Raises:
      ValueError: wrong shape, not real numbers, or NaN or infinity in a row.
    """
    array = _as_array(embeddings)
    if array.ndim != 2 or not array.shape[1] or array.shape[1] != (width or array.shape[1]):
        raise ValueError(
            f"embeddings must have shape [rows, {width or 'width'}], got shape {array.shape} from row {start} on"
        )
    if not _is_real(array.dtype):
        raise ValueError(f"embeddings must be real numbers, got {array.dtype}")
    if not is_traced(array) and jnp.issubdtype(array.dtype, jnp.floating):
        _check_finite(array, start)
    return array


def _check_finite(embeddings: Array, start: int) -> None:
    xp: Any = jnp if isinstance(embeddings, jax.Array) else np
    with np.errstate(over="ignore"):  # a float64 beyond the float32 range becomes infinite
        finite = np.asarray(xp.isfinite(embeddings.astype(np.float32, copy=False)).all(axis=1))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"embeddings must be finite; row {start + bad[0]} and {len(bad) - 1} more of these {len(embeddings)} rows "
            "contain NaN or infinity; check the encoder that produced them"
        )


def validate_queries(queries: ArrayLike, k: int, size: int, width: int) -> Array:
    """Returns queries [B, D] as an array, after checking them and `k` against an index of `size` rows of that width.

    Raises:
      ValueError: wrong shape or dtype, no queries, or `k` outside 1 to `size`.
    """
    array = _as_array(queries)
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(
            f"queries must have shape [batch, {width}] to match this index, got shape {array.shape}; were they "
            "computed by the matching encoder?"
        )
    if not len(array):
        raise ValueError(f"queries must have shape [batch, {width}] with at least one query, got shape {array.shape}")
    if not _is_real(array.dtype):
        raise ValueError(f"queries must be real numbers, got {array.dtype}")
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= size:
        raise ValueError(f"k must be an integer between 1 and the {size} rows of this index, got {brief(k)}")
    return array


def validate_ids(ids: ArrayLike, minimum: int, size: int) -> Array:
    """Returns integer ids as an array, after checking, unless traced, that they are in `minimum` to `size - 1`."""
    array = _as_array(ids)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"ids must be integers, got {array.dtype}")
    if not is_traced(array) and array.size and not minimum <= array.min() <= array.max() < size:
        raise ValueError(f"ids must be between {minimum} and {size - 1}, got {array.min()} to {array.max()}")
    return array


def validate_dtype(dtype: DTypeLike | None) -> np.dtype:
    """Returns a storage dtype of an index.

    Raises:
      ValueError: any other dtype.
    """
    try:
        name = None if dtype is None else dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:  # not a dtype
        name = None
    if name not in DTYPES:
        raise ValueError(f"the dtype of an index must be one of {', '.join(DTYPES)}, got {brief(dtype)}")
    return DTYPES[name]


def _is_real(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _as_array(array: ArrayLike) -> Array:
    return array if isinstance(array, jax.Array) else np.asarray(array)


def encode_rows(rows: Array, dtype: np.dtype) -> tuple[Any, Any]:
    """Converts rows [N, D] to their stored form: values [N, D] and, for int8, scales [N] float32 (else None).

    int8 quantisation is symmetric: the largest magnitude of a row maps to 127, and a row of zeros has the scale 1.
    The results are NumPy or JAX arrays, as the rows are.
    """
    xp: Any = jnp if isinstance(rows, jax.Array) else np
    rows = xp.asarray(rows, xp.float32)
    if dtype != np.int8:
        return rows.astype(dtype), None
    largest = xp.abs(rows).max(axis=1)
    scales = xp.where(largest > 0, largest / xp.float32(127), xp.float32(1))
    return xp.clip(xp.round(rows / scales[:, None]), -127, 127).astype(xp.int8), scales


def decode_rows(values: Any, scales: Any) -> Any:
    """Converts stored values [..., D] and scales [...] or None back to float32 rows [..., D]."""
    rows = values.astype(np.float32)
    return rows if scales is None else rows * scales[..., None]


def gather_rows(layout: Layout, values: jax.Array, scales: jax.Array | None, ids: jax.Array) -> jax.Array:
    """Returns float32 rows [..., D] of ids [...]; zeros for ids out of range."""
    return decode_rows(
        gather_stored(layout, values, ids), None if scales is None else gather_stored(layout, scales, ids)
    )


@partial(jax.jit, static_argnames="layout")
def gather_stored(layout: Layout, array: jax.Array, ids: jax.Array) -> jax.Array:
    """Gathers elements of an array [stored_rows, ...] for ids [...], replicated; zeros for ids out of range."""
    ids = jnp.where(ids < layout.rows, ids, -1)

    def local(array: jax.Array, ids: jax.Array) -> jax.Array:
        inside = (ids >= 0) & (ids < len(array))
        found = array[jnp.where(inside, ids, 0)]
        return jnp.where(inside.reshape(inside.shape + (1,) * (array.ndim - 1)), found, 0)

    if layout.mesh is None:
        return local(array, ids)

    def of_shard(array: jax.Array, ids: jax.Array) -> jax.Array:
        first = lax.axis_index(layout.axes) * len(array)
        # All devices but one add zero, which is exact in any dtype.
        return lax.psum(local(array, ids - first), layout.axes)

    replicated = PartitionSpec()
    return jax.shard_map(
        of_shard,
        mesh=layout.mesh,
        in_specs=(layout.spec, replicated),
        out_specs=replicated,
        check_vma=False,
    )(array, ids)


def scatter_rows(
    layout: Layout, values: jax.Array, scales: jax.Array | None, ids: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Returns values and scales with rows [n, D] written at ids [n]; ids out of range are dropped."""
    rows, row_scales = encode_rows(rows, values.dtype)
    ids = jnp.where(ids < layout.rows, ids, -1)

    def local(
        values: jax.Array, scales: jax.Array | None, ids: jax.Array, rows: jax.Array, row_scales: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        # A negative index would count from the end.
        position = jnp.where(ids >= 0, ids, len(values))
        values = values.at[position].set(rows, mode="drop")
        return values, None if scales is None else scales.at[position].set(row_scales, mode="drop")

    if layout.mesh is None:
        return local(values, scales, ids, rows, row_scales)

    def of_shard(
        values: jax.Array, scales: jax.Array | None, ids: jax.Array, rows: jax.Array, row_scales: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        ids = ids - lax.axis_index(layout.axes) * len(values)
        return local(values, scales, ids, rows, row_scales)

    replicated, sharded = PartitionSpec(), layout.spec
    return jax.shard_map(
        of_shard,
        mesh=layout.mesh,
        in_specs=(sharded, sharded, replicated, replicated, replicated),
        out_specs=(sharded, sharded),
        check_vma=False,
    )(values, scales, ids, rows, row_scales)
