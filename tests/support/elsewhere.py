"""Programs that are traced for a platform that is not here."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

KINDS = {"tpu": "TPU v5 lite", "gpu": "NVIDIA H200"}


def on(platform: str, devices: int = 1):
    """A context in which `pallas_kernels.platform()` is "tpu" or "gpu", of so many devices on an axis "data"."""
    device = AbstractDevice(KINDS[platform], 1, platform)
    return use_abstract_mesh(AbstractMesh((devices,), ("data",), (AxisType.Auto,), abstract_device=device))
