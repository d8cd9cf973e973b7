"""Attention on plain arrays: one API, a float32 reference that defines the result, and implementations of it."""

from pallas_kernels.api import attention, decode
from pallas_kernels.bias import DenseBias, RelativeKeyBias, ToeplitzBias
from pallas_kernels.blocked import sliding_window_weights
from pallas_kernels.dispatch import IMPLEMENTATIONS, decoding_platform
from pallas_kernels.dropout import Dropout, drop_probabilities
from pallas_kernels.kv_cache import PackedKV, unpack
from pallas_kernels.mask import MASK_VALUE, Mask
from pallas_kernels.reference import masked_softmax
from pallas_kernels.sharding import PartitionAxes, platform, target_platform, tokens_per_device, vary_alike
from pallas_kernels.symbolic import is_certain

__all__ = [
    "IMPLEMENTATIONS",
    "MASK_VALUE",
    "DenseBias",
    "Dropout",
    "Mask",
    "PackedKV",
    "PartitionAxes",
    "RelativeKeyBias",
    "ToeplitzBias",
    "attention",
    "decode",
    "decoding_platform",
    "drop_probabilities",
    "is_certain",
    "masked_softmax",
    "platform",
    "sliding_window_weights",
    "target_platform",
    "tokens_per_device",
    "unpack",
    "vary_alike",
]
