"""Compute capability and libraries of this process's GPUs."""

import ctypes.util
import functools
import importlib.util
import re
from typing import NamedTuple

import jax

# The compute capability that Triton and cuDNN's attention require: Ampere.
MIN_CAPABILITY = (8, 0)


class Gpu(NamedTuple):
    """The GPU that a call would run on.

    Attributes:
      capability: The lowest compute capability of all GPUs, None without a CUDA GPU.
      cudnn: Whether cuDNN is installed.
    """

    capability: tuple[int, int] | None
    cudnn: bool


def compute_capability() -> tuple[int, int] | None:
    """The lowest compute capability of this process's CUDA GPUs; None where it has none."""
    if jax.default_backend() != "gpu":
        return None
    versions = []
    for device in jax.local_devices():
        match = re.fullmatch(r"(\d+)\.(\d+)", str(device.compute_capability))
        if match is None:
            return None
        versions.append((int(match[1]), int(match[2])))
    return min(versions)


def local_gpu() -> Gpu:
    """The GPUs of this process. cuDNN is searched for only where there is a GPU, as the search starts a process."""
    capability = compute_capability()
    return Gpu(capability, capability is not None and has_cudnn())


def format_capability(capability: tuple[int, int]) -> str:
    """In NVIDIA's notation: "8.0"."""
    return ".".join(map(str, capability))


def unsupported_gpu_reason(gpu: Gpu | None = None) -> str | None:
    """Why Triton does not compile for a GPU; None where it does. gpu: None for those of this process."""
    capability = compute_capability() if gpu is None else gpu.capability
    if capability is None or capability >= MIN_CAPABILITY:
        return None
    return (
        f"the kernels require a GPU of compute capability {format_capability(MIN_CAPABILITY)} or more; "
        f"this one has {format_capability(capability)}"
    )


@functools.cache
def has_cudnn() -> bool:
    """Whether cuDNN is installed, as a Python package or on the system."""
    try:
        package = importlib.util.find_spec("nvidia.cudnn")
    except ModuleNotFoundError:
        package = None
    return package is not None or ctypes.util.find_library("cudnn") is not None
