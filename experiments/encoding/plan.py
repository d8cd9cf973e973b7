"""What an index of so many passages will need of each chip of a slice, and how long their encoding takes."""

import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import AbstractMesh

from jaxmodels.retrieval.layout import make_layout
from jaxmodels.retrieval.rows import DTYPES

# GiB of memory of one chip. Source: the TPUs' pages in Google Cloud's documentation.
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
WIKIPEDIA = 21_015_300  # passages of DPR's psgs_w100.tsv


def chips(topology: str) -> int:
    """Of a slice such as "v5e:16x16".

    Raises:
      ValueError: not of that form, or a kind whose memory is not known here.
    """
    kind, _, sizes = topology.partition(":")
    if kind not in MEMORY or not all(size.isdigit() and int(size) for size in sizes.split("x")):
        raise ValueError(
            f"a topology is KIND:AxB with a kind of {', '.join(MEMORY)}, such as v5e:16x16; got {topology!r}"
        )
    return math.prod(map(int, sizes.split("x")))


def bytes_per_chip(rows: int, width: int, count: int, dtype: np.dtype) -> int:
    """Of the index's arrays, padding and the scales of int8 included; the layout is the index's own."""
    layout = make_layout(rows, AbstractMesh((count,), ("rows",)), None)
    return layout.shard_rows * (width * dtype.itemsize + (4 if dtype == np.int8 else 0))


def table(rows: int, width: int, topologies: Sequence[str]) -> str:
    """MiB of each chip by topology and dtype; "too much" where it is more than the chip has."""
    lines = [f"an index of {rows:,} x {width}: MiB of each chip", f"  {'':10}" + "".join(f"{n:>12}" for n in DTYPES)]
    for topology in topologies:
        count, room = chips(topology), MEMORY[topology.partition(":")[0]] * 2**30
        cells = []
        for dtype in DTYPES.values():
            size = bytes_per_chip(rows, width, count, dtype)
            cells.append(f"{size / 2**20:,.1f}" if size < room else "too much")
        lines.append(f"  {topology:10}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
