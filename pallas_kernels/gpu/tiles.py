"""Building blocks of the GPU kernels: tile sizes, products, and blocks of a head.

The tile sizes are data, by head width and bytes of an element. They are chosen so that no kernel spills registers on
Hopper GPUs, in the heaviest case, which is dropout; they have not been timed on a GPU. `python -m benchmarks.gpu_sides`
lists the sizes that do not spill, `make test-cuda-aot` checks those below, and benchmarks/README.md, "Kernels", has the
register counts behind them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# The smallest side of a tile that a matrix unit takes.
MIN_TILE_SIZE = 16


class GpuTiling(NamedTuple):
    """Tile size and launch parameters of a kernel.

    Attributes:
      queries, keys: Size of a score tile, powers of two.
      warps: Of a program.
      stages: Loads in flight, in the pipeline that Triton makes of a loop.
    """

    queries: int
    keys: int
    warps: int
    stages: int


class FlashTilings(NamedTuple):
    """The tilings of the flash kernels.

    Attributes:
      forward, forward_biased: Of the forward kernel without and with a bias.
      dkv: Of the gradient with respect to keys and values.
      dq: Of the gradient with respect to queries.
      dbias: Of the gradient with respect to the bias; square.
    """

    forward: GpuTiling
    forward_biased: GpuTiling
    dkv: GpuTiling
    dq: GpuTiling
    dbias: GpuTiling


FLASH_TILINGS = {
    (64, 2): FlashTilings(
        forward=GpuTiling(128, 64, 4, 3),
        forward_biased=GpuTiling(64, 64, 4, 3),
        dkv=GpuTiling(64, 64, 4, 3),
        dq=GpuTiling(64, 64, 4, 3),
        dbias=GpuTiling(64, 64, 4, 2),
    ),
    (128, 2): FlashTilings(
        forward=GpuTiling(128, 64, 8, 3),
        forward_biased=GpuTiling(64, 64, 4, 2),
        dkv=GpuTiling(64, 64, 8, 2),
        dq=GpuTiling(64, 64, 8, 2),
        dbias=GpuTiling(64, 64, 4, 2),
    ),
    (64, 4): FlashTilings(
        forward=GpuTiling(64, 32, 4, 2),
        forward_biased=GpuTiling(32, 32, 4, 2),
        dkv=GpuTiling(32, 32, 4, 2),
        dq=GpuTiling(32, 32, 4, 2),
        dbias=GpuTiling(32, 32, 4, 2),
    ),
    (128, 4): FlashTilings(
        forward=GpuTiling(32, 32, 8, 2),
        forward_biased=GpuTiling(32, 32, 4, 2),
        dkv=GpuTiling(32, 32, 4, 1),
        dq=GpuTiling(64, 32, 8, 1),
        dbias=GpuTiling(32, 32, 8, 1),
    ),
}

# Tiling of the decode kernel, by bytes of a cache element.
DECODE_TILINGS = {
    1: GpuTiling(MIN_TILE_SIZE, 128, 4, 3),
    2: GpuTiling(MIN_TILE_SIZE, 64, 4, 3),
    4: GpuTiling(MIN_TILE_SIZE, 32, 4, 3),
}
# The least number of programs of the decode kernel: two for each of a Hopper's 132 multiprocessors, with two tiles of
# keys and values in flight to each.
MIN_DECODE_PROGRAMS = 2 * 132


def flash_tilings(head_dim: int, itemsize: int) -> FlashTilings:
    """The tilings for heads of width up to 64, or up to 128.

    Args:
      head_dim: The larger one of K and Kv.
      itemsize: Bytes of an element of q, k and v.

    Returns:
      The tilings of all flash kernels.
    """
    return FLASH_TILINGS[64 if head_dim <= 64 else 128, itemsize]


def compiler_params(tiling: GpuTiling) -> plgpu.CompilerParams:
    """Triton's parameters for a kernel of this tiling."""
    return plgpu.CompilerParams(num_warps=tiling.warps, num_stages=tiling.stages)


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n and MIN_TILE_SIZE."""
    return max(MIN_TILE_SIZE, 1 << max(n - 1, 0).bit_length())


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[M, K] [K, N] -> float32 [M, N]; of float32 matrices with `jax.default_matmul_precision`."""
    precision = None if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def block_of_head(size: int, head_dim: int) -> pl.BlockSpec:
    """The block `program_id(0)` of a head of [B, length, H, head_dim]."""
    return pl.BlockSpec((None, size, None, head_dim), lambda i, h, b: (b, i, h, 0))


def key_head(h: jax.Array, group: int) -> jax.Array:
    """The key head of a query head. group: query heads that share a key head."""
    return h if group == 1 else jax.lax.div(h, group)


def whole_key_head(length: int, head_dim: int, group: int) -> pl.BlockSpec:
    """All of the key head of a query head of [B, length, G, head_dim]."""
    return pl.BlockSpec((None, length, None, head_dim), lambda i, h, b: (b, 0, key_head(h, group), 0))


def query_heads(length: int, head_dim: int, group: int) -> pl.BlockSpec:
    """All query heads of a key head of [B, length, H, head_dim]: [length, head_dim], or [length, group, head_dim]."""
    heads = None if group == 1 else group
    return pl.BlockSpec((None, length, heads, head_dim), lambda i, g, b: (b, 0, g, 0))
