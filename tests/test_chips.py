"""Specifications of TPU devices and slices, by hand and according to the compiler."""

import importlib.util

import pytest

from jaxmodels import estimate
from jaxmodels.chips import KINDS, slice_of

SLICES = {"v4:2x2x1": 4, "v5e:2x2": 4, "v5p:2x2x1": 4, "v6e:2x2": 4, "tpu7x:2x2x1": 8, "v5e:1x1": 1, "v5p:1x1x1": 1}


@pytest.mark.parametrize("topology", SLICES)
def test_devices_are_counted(topology):
    device, count = slice_of(topology)
    assert count == SLICES[topology] and device == KINDS[topology.partition(":")[0]]


def test_the_devices_of_a_chip_share_what_it_has():
    device, count = slice_of("tpu7x:1x1x1")
    assert (count * device.memory, count * device.flops, count * device.bandwidth) == (192, 2307e12, 7380e9)
    assert slice_of("v4:1x1x1") == ((32, 275e12, 1200e9, 300e9, 1), 1)


@pytest.mark.parametrize("topology", ["v9e:2x2", "v5e", "v5e:", "v5e:2x", "v5e:2x0", "v5e:axb", "v5e:2x-2", ""])
def test_what_is_no_topology_is_refused(topology):
    with pytest.raises(ValueError, match="a kind of v4, v5e, v5p, v6e, tpu7x, such as v5e:16x16; got '") as caught:
        slice_of(topology)
    assert str(caught.value).endswith(repr(topology))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed")
@pytest.mark.parametrize("topology", SLICES)
def test_the_compiler_counts_the_same(topology):
    assert estimate.topology_mesh(topology, {"data": SLICES[topology]}).size == SLICES[topology]
