"""Sides of the score tiles, by head width and bytes of a number: data.

Chosen so that no kernel spills on a Hopper (255 registers a thread): `python -m benchmarks.gpu_sides` lists what does
not, and `make test-cuda-aot` checks what is here. The heaviest case is the one with dropout, whose hash takes 30
registers. Not yet timed on a GPU.

- 128 queries by 64 keys is the largest tile of a forward kernel that fits into 4 warps: 242 registers at a width of 64,
  252 with global keys. A width of 128 needs 8 warps. Queries and output stay, so longer tiles read the keys less often.
- A bias is read by computed offsets of 64 bits: with one, 128 by 64 spills 392 bytes, and 64 by 64 takes 240 registers.
- The gradients hold two sums or two score tiles at a time: 64 by 64, with 8 warps at a width of 128.
- float32 counts double; there the matrix units take TF32, or none in "highest" precision.
- 64 rows are one product of a warp group, the least of which there is a wide one (wgmma).
"""

from typing import NamedTuple

from pallas_kernels.gpu.tiles import LEAST, Sides


class Blocks(NamedTuple):
    """Of the forward kernel without and with a bias, and of the gradients by keys and values, by queries, and by the
    bias (square)."""

    forward: Sides
    biased: Sides
    keys: Sides
    queries: Sides
    bias: Sides


BLOCKS = {
    (64, 2): Blocks(
        Sides(128, 64, 4, 3), Sides(64, 64, 4, 3), Sides(64, 64, 4, 3), Sides(64, 64, 4, 3), Sides(64, 64, 4, 2)
    ),
    (128, 2): Blocks(
        Sides(128, 64, 8, 3), Sides(64, 64, 4, 2), Sides(64, 64, 8, 2), Sides(64, 64, 8, 2), Sides(64, 64, 4, 2)
    ),
    (64, 4): Blocks(
        Sides(64, 32, 4, 2), Sides(32, 32, 4, 2), Sides(32, 32, 4, 2), Sides(32, 32, 4, 2), Sides(32, 32, 4, 2)
    ),
    (128, 4): Blocks(
        Sides(32, 32, 8, 2), Sides(32, 32, 4, 2), Sides(32, 32, 4, 1), Sides(64, 32, 8, 1), Sides(32, 32, 8, 1)
    ),
}


def flash_blocks(width: int, bytes_each: int) -> Blocks:
    """For heads of up to 64, or of up to 128."""
    return BLOCKS[64 if width <= 64 else 128, bytes_each]


# The tile of the kernel for decoding, by bytes of a stored number, and how many programs it has at least: two for each
# of a Hopper's 132 processors, with two tiles of keys and values on the way to each.
DECODE = {1: Sides(LEAST, 128, 4, 3), 2: Sides(LEAST, 64, 4, 3), 4: Sides(LEAST, 32, 4, 3)}
PROGRAMS = 2 * 132
