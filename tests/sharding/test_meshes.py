"""Meshes over the devices of TPU slices, as the TPU compiler describes them."""

import importlib.util
from collections import Counter

import numpy as np
import pytest

from jaxmodels.estimate.programs import topology_devices
from jaxmodels.sharding import make_mesh

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
SLICES = ("v4:4x4x4", "v5e:4x4", "v5e:16x16", "v5p:4x4x8", "v6e:2x4", "v6e:16x16", "tpu7x:4x4x4")


def distance(mesh, axis: int) -> float:
    """Mean number of links between neighbours along an axis, in a network without wraparound."""
    coordinates = np.vectorize(lambda device: np.array(device.coords, object), otypes=[object])(mesh.devices)
    points = np.array(coordinates.tolist(), int)
    return np.abs(np.diff(points, axis=axis)).sum(-1).mean()


@pytest.mark.parametrize("topology", SLICES)
def test_every_factorisation_has_a_mesh(topology):
    devices = topology_devices(topology)
    exponent = len(devices).bit_length() - 1
    for last in range(exponent + 1):
        for middle in range(exponent + 1 - last):
            axes = {"data": -1, "fsdp": 2**middle, "model": 2**last}
            mesh = make_mesh(axes, devices)
            assert set(mesh.devices.flat) == set(devices), axes
            assert mesh.shape == {**axes, "data": len(devices) >> (middle + last)}


def test_the_last_axis_has_the_neighbours():
    mesh = make_mesh({"data": 64, "model": 4}, topology_devices("v6e:16x16"))
    assert distance(mesh, 1) < distance(mesh, 0) and distance(mesh, 1) <= 1.5


def test_the_first_axes_span_the_slices():
    devices = topology_devices("v5e:4x4", slices=4)
    rng = np.random.default_rng(0)
    devices = [devices[i] for i in rng.permutation(len(devices))]
    for axes, spanned in (
        ({"replica": 4, "fsdp": 16}, (4, 1)),
        ({"data": 8, "model": 8}, (4, 1)),
        ({"replica": 2, "data": 2, "fsdp": 16}, (2, 2, 1)),
        ({"fsdp": 64}, (4,)),
    ):
        mesh = make_mesh(axes, devices)
        of_device = np.vectorize(lambda device: device.slice_index)(mesh.devices)
        for axis, expected in enumerate(spanned):
            lines = np.moveaxis(of_device, axis, -1).reshape(-1, mesh.devices.shape[axis])
            assert {len(set(line)) for line in lines.tolist()} == {expected}, axes
        assert set(Counter(of_device.ravel().tolist()).values()) == {16}


def test_unequal_slices_are_refused_and_parts_of_a_slice_are_not():
    two = topology_devices("v5e:4x4", slices=2)
    with pytest.raises(ValueError, match=r"same number of devices, got \{0: 16, 1: 8\}"):
        make_mesh({"data": -1}, two[:24])
    part = [two[0], two[5], two[10]]
    assert list(make_mesh({"data": 3}, part).devices.flat) == part
