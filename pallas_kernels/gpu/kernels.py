"""The kernels in the order in which they are asked."""

from collections.abc import Callable

from pallas_kernels.gpu import flash
from pallas_kernels.gpu.device import Gpu, too_old


def kernel_for(q, k, v, mask, biases, gpu: Gpu | None = None) -> tuple[Callable | None, str]:
    """`attend` of the first kernel that takes the call, or None and the reason. gpu: None for what is here."""
    reason = too_old(gpu) or flash.refuses(q, k, v, mask, biases)
    return (flash.attend, "") if reason is None else (None, reason)
