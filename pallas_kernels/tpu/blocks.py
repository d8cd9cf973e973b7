"""Sides of the tiles, by chip and head width: data.

Found by `python -m benchmarks.tile_sides`, which compiles every candidate and counts its instruction bundles.
"""

from typing import NamedTuple

import jax


class ShortBlocks(NamedTuple):
    """(queries, keys) of a tile in the forward pass, and in the backward pass under a causal mask."""

    forward: tuple[int, int]
    backward: tuple[int, int]


SHORT = {
    ("v5e", 64): ShortBlocks((512, 512), (256, 1024)),
    ("v5p", 64): ShortBlocks((512, 512), (256, 1024)),
    ("v6e", 64): ShortBlocks((512, 1024), (256, 1024)),
    ("tpu7x", 64): ShortBlocks((512, 256), (256, 1024)),
    ("v5e", 128): ShortBlocks((256, 512), (256, 1024)),
    ("v6e", 128): ShortBlocks((128, 1024), (256, 1024)),
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


class Tiling(NamedTuple):
    """queries, keys: the sides of a tile. ahead: of `stagger.staggered`."""

    queries: int
    keys: int
    ahead: int


class BandBlocks(NamedTuple):
    """block: the most queries of a grid step."""

    block: int
    forward: Tiling
    backward: Tiling


BAND = {
    ("v5e", 64): BandBlocks(2048, Tiling(128, 128, 2), Tiling(128, 128, 3)),
    ("v6e", 64): BandBlocks(2048, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("tpu7x", 64): BandBlocks(2048, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("v5e", 128): BandBlocks(1024, Tiling(128, 128, 2), Tiling(128, 128, 3)),
    ("v6e", 128): BandBlocks(1024, Tiling(256, 512, 2), Tiling(256, 256, 2)),
    ("tpu7x", 128): BandBlocks(1024, Tiling(256, 512, 2), Tiling(256, 256, 2)),
}


def band_blocks(width: int) -> BandBlocks:
    """For heads of up to 64, or of more."""
    column = 64 if width <= 64 else 128
    return BAND.get((chip(), column), BAND["v5e", column])
