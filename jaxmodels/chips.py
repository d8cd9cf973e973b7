"""Specifications of TPU types, and the number of devices of a slice."""

import math
from typing import NamedTuple


class Device(NamedTuple):
    """Specification of a device as JAX sees it.

    Attributes:
      memory: HBM in GiB.
      flops: peak bfloat16 FLOPs per second.
      bandwidth: HBM bandwidth in bytes per second.
      network: bandwidth of the links to other chips of the slice in one direction, in bytes per second.
      per_chip: devices per chip; they share its resources.
    """

    memory: int
    flops: float
    bandwidth: float
    network: float
    per_chip: int = 1


# Source: Google Cloud's documentation of each type, docs.cloud.google.com/tpu/docs/v4 and so on.
KINDS = {
    "v4": Device(32, 275e12, 1200e9, 300e9),
    "v5e": Device(16, 197e12, 819e9, 200e9),
    "v5p": Device(95, 459e12, 2765e9, 600e9),
    "v6e": Device(32, 918e12, 1638e9, 400e9),
    "tpu7x": Device(192 // 2, 2307e12 / 2, 7380e9 / 2, 600e9 / 2, per_chip=2),
}


def slice_of(topology: str) -> tuple[Device, int]:
    """Returns the specification of a device and the number of devices of a slice.

    Args:
      topology: type and shape in chips, such as "v5e:16x16" or "tpu7x:2x2x1". Whether a slice of this shape exists is
        not checked.

    Raises:
      ValueError: an invalid topology, or an unknown type.
    """
    kind, _, sizes = topology.partition(":")
    if kind not in KINDS or not all(size.isdigit() and int(size) for size in sizes.split("x")):
        raise ValueError(
            f"topology must be KIND:AxB or KIND:AxBxC, with a kind of {', '.join(KINDS)}, such as v5e:16x16; got "
            f"{topology!r}"
        )
    return KINDS[kind], math.prod(map(int, sizes.split("x"))) * KINDS[kind].per_chip
