"""The GPUs of this process."""

import ctypes.util
import functools
import importlib.util
import re
from typing import NamedTuple

import jax

# The compute capability from which Triton and cuDNN's attention run: Ampere (A100).
OLDEST = (8, 0)


def capability() -> tuple[int, int] | None:
    """The least compute capability of this process's CUDA GPUs; None where it has none."""
    if jax.default_backend() != "gpu":
        return None
    found = [re.fullmatch(r"(\d+)\.(\d+)", str(device.compute_capability)) for device in jax.local_devices()]
    return min((int(m[1]), int(m[2])) for m in found) if all(found) else None


class Gpu(NamedTuple):
    """What a call will run on. capability: the least compute capability, None where there is no CUDA GPU.
    cudnn: whether it is installed."""

    capability: tuple[int, int] | None
    cudnn: bool


def this_gpu() -> Gpu:
    """Of this process. cuDNN is looked for only where there is a GPU, as that starts another process."""
    found = capability()
    return Gpu(found, found is not None and has_cudnn())


def written(capability: tuple[int, int]) -> str:
    """As NVIDIA writes it: "8.0"."""
    return ".".join(map(str, capability))


def too_old(gpu: Gpu | None = None) -> str | None:
    """What to say of a GPU that Triton does not compile for. gpu: None for those of this process."""
    here = capability() if gpu is None else gpu.capability
    if here is None or here >= OLDEST:
        return None
    return f"the kernels need a GPU of compute capability {written(OLDEST)} or more; this is {written(here)}"


@functools.cache
def has_cudnn() -> bool:
    """Whether cuDNN is installed, as a Python package or on the system."""
    try:
        package = importlib.util.find_spec("nvidia.cudnn")
    except ModuleNotFoundError:
        package = None
    return package is not None or ctypes.util.find_library("cudnn") is not None
