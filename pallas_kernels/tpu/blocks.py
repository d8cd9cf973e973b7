"""Sides of the tiles, by chip and head width: data.

Found by `python -m benchmarks.tile_sides`, which compiles candidates and counts their instruction bundles: causal rows
of 1,024, whole ones of 512 and 1,024, a band of 512 to each side. A forward tiling serves causal and whole rows, so it
is the best of neither; up to 4 % more was taken for fewer tiles, whose program is shorter.
"""

from typing import NamedTuple

import jax


class Tiling(NamedTuple):
    """queries, keys: the sides of a tile. ahead: of `stagger.staggered`."""

    queries: int
    keys: int
    ahead: int


class ShortBlocks(NamedTuple):
    """forward: of every forward pass, and with `queries` on both sides of every pass with a Toeplitz bias. causal: of a
    backward pass under a causal mask, where narrow rows of tiles leave more out. whole: of one without."""

    forward: Tiling
    causal: Tiling
    whole: Tiling


SHORT = {
    ("v5e", 64): ShortBlocks(Tiling(256, 256, 1), Tiling(128, 1024, 2), Tiling(512, 256, 0)),
    ("v5p", 64): ShortBlocks(Tiling(256, 256, 1), Tiling(128, 1024, 3), Tiling(512, 512, 0)),
    ("v6e", 64): ShortBlocks(Tiling(256, 256, 3), Tiling(256, 256, 2), Tiling(256, 256, 2)),
    ("tpu7x", 64): ShortBlocks(Tiling(256, 256, 2), Tiling(256, 256, 2), Tiling(256, 256, 2)),
    ("v5e", 128): ShortBlocks(Tiling(256, 256, 1), Tiling(256, 1024, 1), Tiling(256, 1024, 1)),
    ("v5p", 128): ShortBlocks(Tiling(256, 128, 1), Tiling(128, 512, 3), Tiling(512, 512, 0)),
    ("v6e", 128): ShortBlocks(Tiling(256, 256, 3), Tiling(256, 256, 2), Tiling(256, 256, 2)),
    ("tpu7x", 128): ShortBlocks(Tiling(256, 512, 3), Tiling(256, 512, 2), Tiling(256, 256, 2)),
}
# What a device says that it is.
CHIPS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}


def chip() -> str:
    """The chip of the mesh in context, or of this process; "v5e", the smallest, for one that is not in the tables."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = jax.devices()[0].device_kind if device is None else device.device_kind
    return CHIPS.get(kind, "v5e")


def short_blocks(width: int) -> ShortBlocks:
    """For heads of up to 64, or of more."""
    column = 64 if width <= 64 else 128
    return SHORT.get((chip(), column), SHORT["v5e", column])


class BandBlocks(NamedTuple):
    """block: the most queries of a grid step."""

    block: int
    forward: Tiling
    backward: Tiling


BAND = {
    ("v5e", 64): BandBlocks(2048, Tiling(128, 128, 2), Tiling(128, 128, 3)),
    ("v5p", 64): BandBlocks(2048, Tiling(128, 128, 2), Tiling(128, 128, 4)),
    ("v6e", 64): BandBlocks(2048, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("tpu7x", 64): BandBlocks(2048, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("v5e", 128): BandBlocks(1024, Tiling(128, 128, 2), Tiling(128, 128, 3)),
    ("v5p", 128): BandBlocks(1024, Tiling(128, 128, 2), Tiling(128, 128, 3)),
    ("v6e", 128): BandBlocks(1024, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("tpu7x", 128): BandBlocks(1024, Tiling(256, 512, 2), Tiling(256, 256, 2)),
}


def band_blocks(width: int) -> BandBlocks:
    """For heads of up to 64, or of more."""
    column = 64 if width <= 64 else 128
    return BAND.get((chip(), column), BAND["v5e", column])
