"""Attention on plain arrays: one door, one float32 reference that defines the meaning, implementations behind it."""

from pallas_kernels.band import band_weights
from pallas_kernels.bias import DenseBias, RelativeKeyBias, ToeplitzBias
from pallas_kernels.choice import platform
from pallas_kernels.door import attention
from pallas_kernels.dropout import Dropout
from pallas_kernels.mask import Mask
from pallas_kernels.shards import Split

__all__ = [
    "DenseBias",
    "Dropout",
    "Mask",
    "RelativeKeyBias",
    "Split",
    "ToeplitzBias",
    "attention",
    "band_weights",
    "platform",
]
