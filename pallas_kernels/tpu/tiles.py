"""What every TPU kernel is written with: products, the causal edge, dropout on a tile, and a call with named operands.

A score tile is float32 [keys, queries] in base 2: the queries come scaled by scale * log2(e), so that the softmax is
exp2(tile - top) without another multiplication.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dropout import column_words, keep_words, row_words

LANES = 128
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
# The score of a key that is hidden, and the least value of a bias. Both finite (no NaN from inf - inf), their sum too,
# and far enough apart to tell a row that sees nothing from one whose biases are all very low.
HIDDEN = -2e38
LOWEST = -1e38


class Operand(NamedTuple):
    """An array, or the shape of a result, and how it is cut into blocks."""

    array: Any
    spec: pl.BlockSpec


def call(
    kernel: Callable,
    *,
    name: str,
    grid: tuple[int, ...],
    semantics: tuple[str, ...],
    inputs: Mapping[str, Operand | None],
    outputs: Mapping[str, Operand],
    scratch: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """`pl.pallas_call` with names: the kernel gets a dict of refs, without the inputs that are None."""
    given = {key: operand for key, operand in inputs.items() if operand is not None}
    keys = (*given, *outputs, *scratch)

    def body(*refs):
        kernel(dict(zip(keys, refs, strict=True)))

    results = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[operand.spec for operand in given.values()],
        out_specs=[operand.spec for operand in outputs.values()],
        out_shape=[operand.array for operand in outputs.values()],
        scratch_shapes=list(scratch.values()),
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM),
        name=name,
    )(*(operand.array for operand in given.values()))
    return dict(zip(outputs, results, strict=True))


# What a kernel may use of the on-chip memory. The smallest chip (v7x) has 64 MiB a core.
VMEM = 48 * 2**20


def product(a, b, contract: tuple[int, int]):
    """The float32 product of two matrices over one dimension of each.

    Of float32 matrices in `jax.default_matmul_precision`; of narrower ones it is exact as it is, and no other is taken.
    """
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    over = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, over, precision=precision, preferred_element_type=jnp.float32)


keys_by_queries = partial(product, contract=(0, 0))  # [K, keys], [K, queries] -> [keys, queries]
width_by_queries = partial(product, contract=(1, 0))  # [K, keys], [keys, queries] -> [K, queries]
width_by_keys = partial(product, contract=(1, 1))  # [K, queries], [keys, queries] -> [K, keys]


def hide(tile, visible):
    """HIDDEN where a key is not visible; `visible` is None for all of them."""
    return tile if visible is None else jnp.where(visible, tile, HIDDEN)


def as_column(row):
    """[1, N] on lanes -> [N, LANES], the same value on every lane: what is added to a tile's keys."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def along_queries(column, queries: int):
    """[keys, LANES] as a column -> [keys, queries]."""
    return jnp.tile(column, (1, queries // LANES))


def places(shape: tuple[int, int], s0, t0):
    """Positions of the keys and of the queries of a tile whose first ones are s0 and t0."""
    keys = s0 + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    queries = t0 + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return keys, queries


def keep_tile(words, s0, t0, shape: tuple[int, int], rate: float):
    """bool [keys, queries]: `dropout.keep` of one head. words: its three uint32, of the head and of the seed."""
    head, *seed = words
    queries = (t0 + jax.lax.broadcasted_iota(jnp.int32, (1, shape[1]), 1)).astype(jnp.uint32)
    keys = (s0 + jax.lax.broadcasted_iota(jnp.int32, (shape[0], 1), 0)).astype(jnp.uint32)
    first, second = row_words(head, seed, queries)
    return keep_words(first, second, column_words(keys), rate)


def up(n: int, multiple: int) -> int:
    """The least multiple from n on."""
    return -(-n // multiple) * multiple


def length_last(x, width: int, length: int):
    """[B,N,H,K] -> [B,H,width,length], with zeros. XLA chooses the layout in which the transposition moves nothing."""
    x = x.transpose(0, 2, 3, 1)
    missing = (width - x.shape[2], length - x.shape[3])
    return x if missing == (0, 0) else jnp.pad(x, [(0, 0), (0, 0), (0, missing[0]), (0, missing[1])])
