"""Trace programs for a platform that is not available."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

DEVICE_KINDS = {"tpu": "TPU v5 lite", "gpu": "NVIDIA H200"}


def on(platform: str, devices: int = 1):
    """Return a context for platform "tpu" or "gpu", with a number of devices on the mesh axis "data"."""
    device = AbstractDevice(DEVICE_KINDS[platform], 1, platform)
    return use_abstract_mesh(AbstractMesh((devices,), ("data",), (AxisType.Auto,), abstract_device=device))
