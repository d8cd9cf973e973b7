"""Sides of the tiles, by chip and head width: data, found by counting the instruction bundles of compiled kernels."""

from typing import NamedTuple


class ShortBlocks(NamedTuple):
    """queries: of a tile. keys, keys_backward: of a tile in the forward and in the backward pass."""

    queries: int
    keys: int
    keys_backward: int


def short_blocks(width: int) -> ShortBlocks:
    return ShortBlocks(512, 512, 512) if width <= 64 else ShortBlocks(256, 256, 256)


class BandBlocks(NamedTuple):
    """block: queries of a grid step. queries: of a tile. keys, keys_backward: of a tile in the two passes."""

    block: int
    queries: int
    keys: int
    keys_backward: int


def band_blocks(width: int) -> BandBlocks:
    return BandBlocks(1024, 256, 256, 256) if width <= 64 else BandBlocks(512, 256, 256, 256)
