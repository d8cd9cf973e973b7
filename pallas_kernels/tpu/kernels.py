"""The kernels in the order in which they are asked."""

from collections.abc import Callable

from pallas_kernels.tpu import band, short


def kernel_for(q, k, v, mask, biases) -> tuple[Callable | None, str]:
    """`attend` of the first kernel that takes the call, or None and all the reasons."""
    reasons = []
    for kernel in (band, short):
        reason = kernel.refuses(q, k, v, mask, biases)
        if reason is None:
            return kernel.attend, ""
        reasons.append(reason)
    return None, "; ".join(reasons)
