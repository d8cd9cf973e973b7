"""What every GPU kernel is written with: products, dropout's words, and a call with named operands.

Scores are float32 in base 2: the queries come scaled by scale * log2(e), so that the softmax is exp2(score - top).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
# The score of a key that is hidden, and the least value of a bias. Both finite (no NaN from inf - inf), their sum too,
# and far enough apart to tell a row that sees nothing from one whose biases are all very low.
HIDDEN = -2e38
LOWEST = -1e38


class Sides(NamedTuple):
    """queries, keys: the sides of a score tile, powers of two. warps of a program; stages of its loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


class Operand(NamedTuple):
    """An array, or the shape of a result, and how it is cut into blocks."""

    array: Any
    spec: pl.BlockSpec


def call(
    kernel: Callable,
    *,
    name: str,
    grid: tuple[int, ...],
    sides: Sides,
    inputs: Mapping[str, Operand | None],
    outputs: Mapping[str, Operand],
) -> dict[str, jax.Array]:
    """`pl.pallas_call` with names: the kernel gets a dict of refs, without the inputs that are None."""
    given = {key: operand for key, operand in inputs.items() if operand is not None}
    keys = (*given, *outputs)

    def body(*refs):
        kernel(dict(zip(keys, refs, strict=True)))

    results = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[operand.spec for operand in given.values()],
        out_specs=[operand.spec for operand in outputs.values()],
        out_shape=[operand.array for operand in outputs.values()],
        compiler_params=plgpu.CompilerParams(num_warps=sides.warps, num_stages=sides.stages),
        name=name,
    )(*(operand.array for operand in given.values()))
    return dict(zip(outputs, results, strict=True))


def product(a, b):
    """[M, K] [K, N] -> float32 [M, N]; of float32 matrices in `jax.default_matmul_precision`."""
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def rows_of_block(side: int, width: int) -> pl.BlockSpec:
    """The block `program_id(0)` of a head of [B, length, H, width]."""
    return pl.BlockSpec((None, side, None, width), lambda i, h, b: (b, i, h, 0))


def all_rows(length: int, width: int) -> pl.BlockSpec:
    """The whole of a head of [B, length, H, width]."""
    return pl.BlockSpec((None, length, None, width), lambda i, h, b: (b, 0, h, 0))
