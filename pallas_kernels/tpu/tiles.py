"""Building blocks of the TPU kernels: tile sizes, operations and gradients of one tile, software pipelining.

A score tile is float32 [keys, queries] in base 2.

The tile sizes are data, by chip and head width. `python -m benchmarks.tile_sides` compiles candidates and counts their
instruction bundles for causal rows of 1,024, unmasked ones of 512 and 1,024, and a window of 512 to either side. A
forward tiling serves causal and unmasked rows, so it is a compromise; a small excess of bundles was accepted for fewer
tiles, whose program is shorter (benchmarks/README.md, "Kernels").

The gradients of one tile, with P = exp2(scores - max), i = 1/sum and delta = sum over the head width of do * o, both
per query:

    dv = (i do) P'        dP = v'(i do)        dS = P * (dP - i delta)
    dq = ln2 * k dS       dk = ln2 * q dS'     dbias = ln2 * dS

Five products per tile, nothing computed twice. The normalisation is folded into `do`, which has K rows and is not a
tile. Under dropout, P in the first product and dP in the third are masked as in the forward pass, and `do` includes the
factor 1 / (1 - rate).
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import LN2
from pallas_kernels.dropout import keep_from_bits, key_bits, query_bits
from pallas_kernels.kernel_call import Refs
from pallas_kernels.mask import MASK_VALUE

LANES = 128

# VMEM that a kernel may use. The smallest chip (v7x) has 64 MiB per core.
VMEM_LIMIT_BYTES = 48 * 2**20

# An index that may be traced.
Index = jax.Array | int


class TpuTiling(NamedTuple):
    """Size of a score tile, and the lookahead of `run_software_pipelined`."""

    queries: int
    keys: int
    lookahead: int


class FullRowTilings(NamedTuple):
    """The tilings of the full-row kernels.

    Attributes:
      forward: Of every forward pass and, with `queries` on both sides, of every pass with a Toeplitz bias.
      backward_causal: Of a backward pass under a causal mask, where narrow rows of tiles skip more of the scores.
      backward_unmasked: Of a backward pass without one.
    """

    forward: TpuTiling
    backward_causal: TpuTiling
    backward_unmasked: TpuTiling


class SlidingWindowTilings(NamedTuple):
    """The tilings of the sliding-window kernels.

    Attributes:
      block: The maximum number of queries of a grid step.
      forward, backward: Of either pass.
    """

    block: int
    forward: TpuTiling
    backward: TpuTiling


FULL_ROW_TILINGS = {
    ("v5e", 64): FullRowTilings(TpuTiling(256, 256, 1), TpuTiling(128, 1024, 2), TpuTiling(512, 256, 0)),
    ("v5p", 64): FullRowTilings(TpuTiling(256, 256, 1), TpuTiling(128, 1024, 3), TpuTiling(512, 512, 0)),
    ("v6e", 64): FullRowTilings(TpuTiling(256, 256, 3), TpuTiling(256, 256, 2), TpuTiling(256, 256, 2)),
    ("tpu7x", 64): FullRowTilings(TpuTiling(256, 256, 2), TpuTiling(256, 256, 2), TpuTiling(256, 256, 2)),
    ("v5e", 128): FullRowTilings(TpuTiling(256, 256, 1), TpuTiling(256, 1024, 1), TpuTiling(256, 1024, 1)),
    ("v5p", 128): FullRowTilings(TpuTiling(256, 128, 1), TpuTiling(128, 512, 3), TpuTiling(512, 512, 0)),
    ("v6e", 128): FullRowTilings(TpuTiling(256, 256, 3), TpuTiling(256, 256, 2), TpuTiling(256, 256, 2)),
    ("tpu7x", 128): FullRowTilings(TpuTiling(256, 512, 3), TpuTiling(256, 512, 2), TpuTiling(256, 256, 2)),
}
SLIDING_WINDOW_TILINGS = {
    ("v5e", 64): SlidingWindowTilings(2048, TpuTiling(128, 128, 2), TpuTiling(128, 128, 3)),
    ("v5p", 64): SlidingWindowTilings(2048, TpuTiling(128, 128, 2), TpuTiling(128, 128, 4)),
    ("v6e", 64): SlidingWindowTilings(2048, TpuTiling(256, 512, 2), TpuTiling(256, 256, 2)),
    ("tpu7x", 64): SlidingWindowTilings(2048, TpuTiling(256, 512, 2), TpuTiling(256, 256, 2)),
    ("v5e", 128): SlidingWindowTilings(1024, TpuTiling(128, 128, 2), TpuTiling(128, 128, 3)),
    ("v5p", 128): SlidingWindowTilings(1024, TpuTiling(128, 128, 2), TpuTiling(128, 128, 3)),
    ("v6e", 128): SlidingWindowTilings(1024, TpuTiling(256, 512, 2), TpuTiling(256, 256, 2)),
    ("tpu7x", 128): SlidingWindowTilings(1024, TpuTiling(256, 512, 2), TpuTiling(256, 256, 2)),
}
# Chips by the `device_kind` of their devices.
CHIPS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}
# The smallest chip, whose tilings serve those that are not in the tables.
DEFAULT_CHIP = "v5e"


def chip() -> str:
    """The chip of the mesh in context, or of this process; DEFAULT_CHIP for an unknown one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = jax.devices()[0].device_kind if device is None else device.device_kind
    return CHIPS.get(kind, DEFAULT_CHIP)


def full_row_tilings(head_dim: int) -> FullRowTilings:
    """The tilings of this chip for heads of width up to 64, or of more."""
    column = 64 if head_dim <= 64 else 128
    return FULL_ROW_TILINGS.get((chip(), column), FULL_ROW_TILINGS[DEFAULT_CHIP, column])


def sliding_window_tilings(head_dim: int) -> SlidingWindowTilings:
    """The tilings of this chip for heads of width up to 64, or of more."""
    column = 64 if head_dim <= 64 else 128
    return SLIDING_WINDOW_TILINGS.get((chip(), column), SLIDING_WINDOW_TILINGS[DEFAULT_CHIP, column])


class Tile(NamedTuple):
    """A tile's first key and first query, and its numbers of keys and queries."""

    s0: int
    t0: int
    keys: int
    queries: int


def compiler_params(*semantics: Literal["parallel", "arbitrary"]) -> pltpu.CompilerParams:
    """Mosaic's parameters for a kernel whose grid axes are "parallel" or "arbitrary"."""
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_LIMIT_BYTES)


def product(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The float32 product of two matrices over one dimension of each.

    For float32 matrices it has `jax.default_matmul_precision`; for narrower ones the default precision is exact.
    """
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


keys_by_queries = partial(product, contract=(0, 0))  # [K, keys], [K, queries] -> [keys, queries]
width_by_queries = partial(product, contract=(1, 0))  # [K, keys], [keys, queries] -> [K, queries]
width_by_keys = partial(product, contract=(1, 1))  # [K, queries], [keys, queries] -> [K, keys]
queries_by_keys = partial(product, contract=(1, 1))  # [queries, K], [keys, K] -> [queries, keys]
queries_by_width = partial(product, contract=(1, 0))  # [queries, keys], [keys, K] -> [queries, K]


def mask_scores(tile: jax.Array, visible: jax.Array) -> jax.Array:
    """MASK_VALUE where a key is not visible."""
    return jnp.where(visible, tile, MASK_VALUE)


def broadcast_to_lanes(row: jax.Array) -> jax.Array:
    """[1, N] on lanes -> [N, LANES], the same value on every lane: what is added to a tile's keys."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def tile_over_queries(column: jax.Array, queries: int) -> jax.Array:
    """[keys, LANES] with the same value on every lane -> [keys, queries]."""
    return jnp.tile(column, (1, queries // LANES))


def tile_positions(shape: tuple[int, ...], s0: Index, t0: Index) -> tuple[jax.Array, jax.Array]:
    """Positions of the keys and of the queries of a tile [keys, queries] whose first ones are s0 and t0."""
    keys = s0 + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    queries = t0 + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return keys, queries


def keep_tile(random_bits: Sequence[jax.Array], s0: Index, t0: Index, shape: tuple[int, int], rate: float) -> jax.Array:
    """Dropout's keep mask of a tile (`dropout.keep_mask`).

    Args:
      random_bits: Three uint32, the bits of the head and the seed.
      s0: The tile's first key.
      t0: The tile's first query.
      shape: (keys, queries).
      rate: Dropout's rate.

    Returns:
      bool [keys, queries].
    """
    head, *seed = random_bits
    queries = (t0 + jax.lax.broadcasted_iota(jnp.int32, (1, shape[1]), 1)).astype(jnp.uint32)
    keys = (s0 + jax.lax.broadcasted_iota(jnp.int32, (shape[0], 1), 0)).astype(jnp.uint32)
    first, second = query_bits(head, seed, queries)
    return keep_from_bits(first, second, key_bits(keys), rate)


def to_length_minor(x: jax.Array, width: int, length: int) -> jax.Array:
    """[B, N, H, K] -> [B, H, width, length], padded with zeros. XLA chooses a layout in which nothing is moved."""
    x = x.transpose(0, 2, 3, 1)
    missing = (width - x.shape[2], length - x.shape[3])
    return x if missing == (0, 0) else jnp.pad(x, [(0, 0), (0, 0), (0, missing[0]), (0, missing[1])])


def run_software_pipelined(tasks: Iterable[Generator], lookahead: int) -> None:
    """Emits tasks of two stages in the order of a software pipeline.

    The second stage of each task comes after the first stages of the next `lookahead` tasks. A matrix unit executes its
    products in program order, and a second stage (weights times values) waits for the arithmetic on the result of its
    first stage (scores). With the next first stages in between, the unit has work in the meantime.

    Args:
      tasks: Generators that yield once, between their stages.
      lookahead: Number of tasks begun ahead.
    """
    begun: deque[Generator] = deque()
    for task in tasks:
        next(task)
        begun.append(task)
        if len(begun) > lookahead:
            next(begun.popleft(), None)
    for task in begun:
        next(task, None)


@dataclass
class QueryBlock:
    """The queries of a row of tiles in a backward pass.

    Attributes:
      columns: Their columns in the refs.
      q: [K, queries].
      do: [Kv, queries], the cotangent times i.
      max: float32 [1, queries], the maximum scores.
      delta: float32 [1, queries], times i.
      dq_sum: float32 [K, queries], the sum of dq so far, without the factor ln2.
    """

    columns: slice
    q: jax.Array
    do: jax.Array
    max: jax.Array
    delta: jax.Array
    dq_sum: jax.Array | float = 0.0

    def dq(self, dtype: jnp.dtype) -> jax.Array:
        """[K, queries], of all tiles added so far."""
        return jnp.asarray(self.dq_sum * LN2).astype(dtype)


def load_query_block(refs: Refs, index: tuple, columns: slice, rate: float) -> QueryBlock:
    """Reads a block of queries. index: what precedes [width, queries] in the refs q, o, do and statistics."""
    q, do = refs["q"][*index, :, columns], refs["do"][*index, :, columns]
    score_max, inverse_sum = refs["statistics"][*index, :1, columns], refs["statistics"][*index, 1:, columns]
    do_f32 = do.astype(jnp.float32)
    products = do_f32 * refs["o"][*index, :, columns].astype(jnp.float32)
    delta = products.sum(axis=0, keepdims=True) * inverse_sum
    do = (do_f32 * (inverse_sum / (1.0 - rate))).astype(do.dtype)
    return QueryBlock(columns, q, do, score_max, delta)


def tile_gradients(
    block: QueryBlock, k: jax.Array, scores: jax.Array, dp: jax.Array, keep: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adds a tile's part to the block's dq and computes its other gradients.

    Args:
      block: The tile's queries.
      k: [K, keys].
      scores: float32 [keys, queries].
      dp: float32 [keys, queries], v'(i do).
      keep: Dropout's keep mask [keys, queries], or None.

    Returns:
      dk [K, keys] without the factor ln2, dv [Kv, keys] and dS [keys, queries], all float32.
    """
    weights = jnp.exp2(scores - block.max)
    kept_weights = weights
    if keep is not None:
        dp, kept_weights = jnp.where(keep, dp, 0.0), jnp.where(keep, weights, 0.0)
    ds = weights * (dp - block.delta)
    narrow_ds = ds.astype(block.q.dtype)
    dv = width_by_keys(block.do, kept_weights.astype(block.do.dtype))
    dk = width_by_keys(block.q, narrow_ds)
    block.dq_sum = block.dq_sum + width_by_queries(k, narrow_ds)
    return dk, dv, ds
