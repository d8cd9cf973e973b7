"""Which implementation takes a call, and why not another."""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax

from pallas_kernels import blocked
from pallas_kernels.devices import platform
from pallas_kernels.gpu import cudnn
from pallas_kernels.gpu import kernels as gpu_kernels
from pallas_kernels.gpu.device import Gpu
from pallas_kernels.mask import Mask
from pallas_kernels.shards import Split, cannot_cut
from pallas_kernels.tpu import kernels as tpu

IMPLEMENTATIONS = ("auto", "xla", "xla_blocked", "pallas", "pallas_tpu", "pallas_gpu", "cudnn")

# From how many (query, key) pairs on "auto" takes the blocked path. Milliseconds and temporary MB on two (busy) CPU
# cores, causal, 12 heads of 64, float32; with the gradient in brackets:
#     B    T     dense ms     blocked ms      dense MB    blocked MB
#     4   256     56 (283)     52 (182)       18 (42)      15 (36)
#     4   512    288 (504)    230 (345)       60 (156)     47 (120)
#     4  1024    565 (1491)   355 (1139)     216 (600)     53 (212)
#     1  2048    574 (3464)   476 (1480)     384 (780)     32 (115)
#     1  4096   3834         2155           1536           63
# Below, a loop only costs compile time. It also needs more than one block of queries: a decoded token stays dense.
BLOCKED_FROM = 512 * 512

_log = logging.getLogger(__name__)


class Call(NamedTuple):
    """What a choice depends on: shapes, dtypes and the static parts of a call."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    mask: Mask
    biases: tuple
    return_weights: bool
    split: Split | None
    dropout: bool


def choose(implementation: str, call: Call, gpu: Gpu | None = None) -> tuple[str, Callable | None]:
    """The name of the implementation and, for a kernel, its `attend`.

    Args:
      gpu: what a kernel for GPUs would run on; None for what is here.

    Raises:
      ValueError: an unknown name, or a named implementation that cannot take the call, with the reason.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}; got {implementation!r}")
    if call.return_weights and implementation not in ("auto", "xla"):
        raise ValueError(
            f"return_weights needs every weight at once, which {implementation!r} never forms; use implementation='xla'"
        )
    if implementation in ("xla", "xla_blocked"):
        return implementation, None
    if implementation == "auto":
        return _by_platform(call, gpu)
    chosen = implementation
    if implementation == "pallas":
        chosen = f"pallas_{platform()}"
        if chosen not in KERNELS:
            raise ValueError(
                f"implementation='pallas' has kernels for TPUs and GPUs and this is a {platform()}; use 'auto' or "
                "'xla', or name 'pallas_tpu' or 'pallas_gpu' to compile for one or to run inside "
                "pltpu.force_tpu_interpret_mode() (for 'pallas_gpu': with True)"
            )
    kernel, reason = _kernel(chosen, call, gpu)
    if kernel is None:
        raise ValueError(f"implementation={implementation!r} cannot take this call: {reason}")
    return chosen, kernel


def _by_platform(call: Call, gpu: Gpu | None) -> tuple[str, Callable | None]:
    T, S = call.q.shape[1], call.k.shape[1]
    # A decoded token is bound by memory, and only the dense form has weights to return: there no kernel is missed.
    if T > 1 and not call.return_weights:
        reason = ""
        for name in ASKED.get(platform(), ()):
            kernel, reason = _kernel(name, call, gpu)
            if kernel is not None:
                return name, kernel
        if reason:
            say_once(f"attention falls back to XLA: {reason}")
    long = T > blocked.BLOCK and T * S >= BLOCKED_FROM
    return ("xla_blocked" if long and not call.return_weights else "xla"), None


def _cudnn(call: Call, gpu: Gpu | None) -> tuple[Callable | None, str]:
    reason = cudnn.refuses(*call[:5], call.dropout, gpu)
    return (cudnn.attend, "") if reason is None else (None, reason)


KERNELS: dict[str, Callable] = {
    "pallas_tpu": lambda call, gpu: tpu.kernel_for(*call[:5]),
    "pallas_gpu": lambda call, gpu: gpu_kernels.kernel_for(*call[:5], gpu),
    "cudnn": _cudnn,
}
# What "auto" asks on a platform; the reason of the last is the one it gives. "pallas_gpu" has to be named: it compiles
# for a GPU without spills, but has never run on one.
ASKED = {"tpu": ("pallas_tpu",), "gpu": ("cudnn",)}


def _kernel(name: str, call: Call, gpu: Gpu | None) -> tuple[Callable | None, str]:
    if reason := cannot_cut(call.split, call.q.shape):
        return None, reason
    return KERNELS[name](call, gpu)


def decoding_platform(implementation: str) -> str | None:
    """That whose kernel reads a cache under this name, or None. Such a cache is kept as `Stored`."""
    if implementation in ("pallas_tpu", "pallas_gpu"):
        return implementation.removeprefix("pallas_")
    here = platform()
    named = f"pallas_{here}"
    taken = implementation == "pallas" or (implementation == "auto" and named in ASKED.get(here, ()))
    return here if taken and named in KERNELS else None


@functools.cache
def say_once(message: str) -> None:
    _log.warning(message)
