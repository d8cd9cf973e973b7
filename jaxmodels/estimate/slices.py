"""A mesh over the devices of a TPU slice that is not here."""

from collections.abc import Mapping

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh


def topology_mesh(topology: str, axes: Mapping[str, int]) -> Mesh:
    """A mesh over the devices of a TPU slice that is not here, e.g. ("v5e:16x16", {"data": 256}).

    A single chip is "v5e:1x1".

    Raises:
      ValueError: the sizes do not fit the slice.
    """
    kind, _, sides = topology.partition(":")
    # A host of most kinds has several chips, and a slice is made of hosts unless they are said to be smaller.
    options = {"chips_per_host_bounds": (1, 1, 1)} if set(sides.split("x")) == {"1"} else {}
    if kind == "v4":
        # Both cores of a chip are one device, as on the machines; of a v5p they are so by themselves.
        options["chip_config_name"] = "megacore"
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    sizes = tuple(axes.values())
    if int(np.prod(sizes)) != len(devices):
        raise ValueError(f"{topology} has {len(devices)} devices, the mesh {dict(axes)} asks for {int(np.prod(sizes))}")
    return Mesh(np.array(devices).reshape(sizes), tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))
