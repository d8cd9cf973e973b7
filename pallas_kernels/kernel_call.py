"""Shared by the kernels of every platform: a `pallas_call` with named operands."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# The refs of a kernel by name. Pallas has no public type for a ref.
Refs = dict[str, Any]


class BlockedArray(NamedTuple):
    """An input array, or the `jax.ShapeDtypeStruct` of an output, and how it is cut into blocks."""

    array: Any
    spec: pl.BlockSpec


def call_kernel(
    kernel: Callable[[Refs], None],
    *,
    name: str,
    grid: tuple[int, ...],
    inputs: Mapping[str, BlockedArray | None],
    outputs: Mapping[str, BlockedArray],
    compiler_params: Any,
    scratch: Mapping[str, Any] | None = None,
    scalars: Mapping[str, jax.Array] | None = None,
    cost: pl.CostEstimate | None = None,
) -> dict[str, jax.Array]:
    """`pl.pallas_call` with named operands.

    Args:
      kernel: Called with a dict of refs: scalars, inputs that are not None, outputs and scratch buffers.
      name: Name of the kernel in the compiled program.
      grid: Of the kernel.
      inputs: Arrays with their block specs; those that are None are left out.
      outputs: Shapes with their block specs.
      compiler_params: Of the platform's compiler.
      scratch: Scratch buffers.
      scalars: int32 arrays that index maps receive too, after the grid indices (TPU only).
      cost: Cost estimate for XLA's scheduling and cost analysis, whose default for a kernel is zero.

    Returns:
      The outputs by name.
    """
    present = {key: operand for key, operand in inputs.items() if operand is not None}
    scratch, scalars = scratch or {}, scalars or {}
    keys = (*scalars, *present, *outputs, *scratch)

    def body(*refs):
        kernel(dict(zip(keys, refs, strict=True)))

    specs: dict[str, Any] = {
        "grid": grid,
        "in_specs": [operand.spec for operand in present.values()],
        "out_specs": [operand.spec for operand in outputs.values()],
        "scratch_shapes": list(scratch.values()),
    }
    if scalars:
        specs = {"grid_spec": pltpu.PrefetchScalarGridSpec(num_scalar_prefetch=len(scalars), **specs)}
    results = pl.pallas_call(
        body,
        **specs,
        out_shape=[like_operand(operand.array, next(iter(present.values())).array) for operand in outputs.values()],
        compiler_params=compiler_params,
        cost_estimate=cost,
        name=name,
    )(*scalars.values(), *(operand.array for operand in present.values()))
    return dict(zip(outputs, results, strict=True))


def like_operand(shape: jax.ShapeDtypeStruct, operand: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of a kernel's result, which varies over the mesh axes of a `shard_map` that the operands vary over.

    Args:
      shape: Shape and dtype of the result.
      operand: One of the operands, see `sharding.vary_alike`.
    """
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, manual_axis_type=jax.typeof(operand).manual_axis_type)


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least n."""
    return -(-n // multiple) * multiple


def has_common_dtype(arrays: Iterable[jax.Array], allowed: tuple[str, ...]) -> bool:
    """Whether all arrays have the same dtype, one of those allowed."""
    dtypes = {str(x.dtype) for x in arrays}
    return len(dtypes) == 1 and dtypes <= set(allowed)
