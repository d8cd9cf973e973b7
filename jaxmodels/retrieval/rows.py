"""Rows of an index: how their numbers are stored, read back and replaced."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxmodels.messages import brief
from jaxmodels.retrieval.layout import Layout

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}


# Values [n, D], and scales [n] float32 for int8, else None.
Stored = tuple[np.ndarray, np.ndarray | None]


def checked_dtype(dtype) -> np.dtype:
    """Raises ValueError for a dtype that no index has."""
    try:
        name = None if dtype is None else dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:  # no dtype at all
        name = None
    if name not in DTYPES:
        raise ValueError(f"an index stores {', '.join(DTYPES)}, not {brief(dtype)}")
    return DTYPES[name]


def stored(rows, dtype: np.dtype):
    """Rows [N, D] of a numpy or JAX array as an index stores them: values [N, D], and scales [N] float32 for int8.

    int8 is symmetric: a row's largest magnitude becomes 127, and a row of zeros keeps the scale 1.
    """
    xp = jnp if isinstance(rows, jax.Array) else np
    rows = xp.asarray(rows, xp.float32)
    if dtype != np.int8:
        return rows.astype(dtype), None
    largest = xp.abs(rows).max(axis=1)
    scales = xp.where(largest > 0, largest / xp.float32(127), xp.float32(1))
    return xp.clip(xp.round(rows / scales[:, None]), -127, 127).astype(xp.int8), scales


def restored(values, scales):
    """The float32 rows [..., D] behind stored ones."""
    rows = values.astype(np.float32)
    return rows if scales is None else rows * scales[..., None]


def gathered(layout: Layout, values, scales, ids):
    """Float32 rows [..., D] of ids [...]; zeros for ids that name no row."""
    return restored(taken(layout, values, ids), None if scales is None else taken(layout, scales, ids))


@partial(jax.jit, static_argnames="layout")
def taken(layout: Layout, array, ids):
    """What an array [stored rows, ...] holds for ids [...], whole on every device; zeros for ids that name no row."""
    ids = jnp.where(ids < layout.rows, ids, -1)

    def local(array, ids):
        inside = (ids >= 0) & (ids < len(array))
        found = array[jnp.where(inside, ids, 0)]
        return jnp.where(inside.reshape(inside.shape + (1,) * (array.ndim - 1)), found, 0)

    if layout.mesh is None:
        return local(array, ids)

    def of_shard(array, ids):
        first = lax.axis_index(layout.axes) * len(array)
        # All but one device add a zero, which is exact in any dtype.
        return lax.psum(local(array, ids - first), layout.axes)

    whole = PartitionSpec()
    return jax.shard_map(of_shard, mesh=layout.mesh, in_specs=(layout.spec, whole), out_specs=whole, check_vma=False)(
        array, ids
    )


def replaced(layout: Layout, values, scales, ids, rows):
    """Values and scales with rows [n, D] in the places ids [n]; ids that name no row are dropped."""
    rows, row_scales = stored(rows, values.dtype)
    ids = jnp.where(ids < layout.rows, ids, -1)

    def local(values, scales, ids, rows, row_scales):
        # A negative index would count from the end.
        place = jnp.where(ids >= 0, ids, len(values))
        values = values.at[place].set(rows, mode="drop")
        return values, None if scales is None else scales.at[place].set(row_scales, mode="drop")

    if layout.mesh is None:
        return local(values, scales, ids, rows, row_scales)

    def of_shard(values, scales, ids, rows, row_scales):
        ids = ids - lax.axis_index(layout.axes) * len(values)
        return local(values, scales, ids, rows, row_scales)

    whole, split = PartitionSpec(), layout.spec
    return jax.shard_map(
        of_shard,
        mesh=layout.mesh,
        in_specs=(split, split, whole, whole, whole),
        out_specs=(split, split),
        check_vma=False,
    )(values, scales, ids, rows, row_scales)
