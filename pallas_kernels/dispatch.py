"""Chooses the implementation of a call, and reports why a kernel was not chosen.

Kernels are imported when one is considered, because importing Pallas takes a tenth of the time of `import jax`.
"""

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax

from pallas_kernels import blocked
from pallas_kernels.bias import Biases
from pallas_kernels.gpu.device import Gpu, unsupported_gpu_reason
from pallas_kernels.kv_cache import PackedKV
from pallas_kernels.mask import Mask
from pallas_kernels.sharding import Axes, PartitionAxes, platform, unsupported_partitioning_reason
from pallas_kernels.symbolic import has_symbolic_dims, is_certain

IMPLEMENTATIONS = ("auto", "xla", "xla_blocked", "pallas", "pallas_tpu", "pallas_gpu", "cudnn")

# Number of (query, key) pairs from which "auto" takes the blocked implementation: below, a loop only costs compile time
# (benchmarks/README.md, "Kernels"). It also needs more than one block of queries: a decode step stays dense.
MIN_BLOCKED_PAIRS = 512 * 512

_log = logging.getLogger(__name__)


class AttentionCall(NamedTuple):
    """What the choice of an implementation depends on: shapes, dtypes and the static parts of a call.

    Attributes:
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: Visibility rule.
      biases: Biases of the scores.
      return_weights: Whether the weights are requested.
      split: Mesh axes of batch and heads, or None.
      dropout: Whether probabilities are dropped.
      keys_over: Mesh axes over whose devices the keys are split, see `reference.attend`; or None.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    mask: Mask
    biases: Biases
    return_weights: bool
    split: PartitionAxes | None
    dropout: bool
    keys_over: Axes = None


class KernelChoice(NamedTuple):
    """The `attend` of a kernel that supports a call, or None and the reason why there is none."""

    attend: Callable[..., jax.Array] | None
    reason: str = ""


def choose(implementation: str, call: AttentionCall, gpu: Gpu | None = None) -> tuple[str, Callable | None]:
    """Chooses the implementation of a call of `attention`.

    Args:
      implementation: A name from `IMPLEMENTATIONS`.
      call: The call.
      gpu: The GPU that a kernel would run on; None for those of this process.

    Returns:
      The name of the implementation and, for a kernel, its `attend`.

    Raises:
      ValueError: An unknown name, or a named implementation that does not support the call, with the reason.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}; got {implementation!r}")
    if call.return_weights and implementation not in ("auto", "xla"):
        raise ValueError(
            f"return_weights requires all weights at once, which {implementation!r} never forms; "
            "use implementation='xla'"
        )
    if implementation in ("xla", "xla_blocked"):
        return implementation, None
    if implementation == "auto":
        return _choose_by_platform(call, gpu)
    chosen = implementation
    if implementation == "pallas":
        chosen = f"pallas_{platform()}"
        if chosen not in _SELECTORS:
            raise ValueError(
                f"implementation='pallas' has kernels for TPUs and GPUs, but the platform is {platform()}; use 'auto' "
                "or 'xla', or name 'pallas_tpu' or 'pallas_gpu' to compile for one or to run inside "
                "pltpu.force_tpu_interpret_mode() (for 'pallas_gpu': with True)"
            )
    selection = _select(chosen, call, gpu)
    if selection.attend is None:
        raise ValueError(f"implementation={implementation!r} does not support this call: {selection.reason}")
    return chosen, selection.attend


def _choose_by_platform(call: AttentionCall, gpu: Gpu | None) -> tuple[str, Callable | None]:
    T, S = call.q.shape[1], call.k.shape[1]
    # A decode step is bound by memory, and only the dense form has weights to return: neither needs a kernel.
    if is_certain(lambda: T > 1) and not call.return_weights:
        reason = ""
        for name in AUTO_CANDIDATES.get(platform(), ()):
            selection = _select(name, call, gpu)
            if selection.attend is not None:
                return name, selection.attend
            reason = selection.reason
        if reason:
            log_once(f"attention falls back to XLA: {reason}")
    long = is_certain(lambda: T > blocked.BLOCK and T * S >= MIN_BLOCKED_PAIRS)
    return ("xla_blocked" if long and not call.return_weights else "xla"), None


def _select(name: str, call: AttentionCall, gpu: Gpu | None) -> KernelChoice:
    (B, _, H, _), G = call.q.shape, call.k.shape[2]
    if reason := unsupported_partitioning_reason(call.split, B, H, G):
        return KernelChoice(None, reason)
    if call.keys_over is not None and name != "pallas_tpu":
        return KernelChoice(None, "only the full-row kernel for TPUs supports keys that are split over devices")
    if has_symbolic_dims(call.q, call.k):
        return KernelChoice(None, f"no kernel supports symbolic dimensions; got {call.q.shape} and {call.k.shape}")
    return _SELECTORS[name](call, gpu)


def select_tpu_kernel(call: AttentionCall, gpu: Gpu | None = None) -> KernelChoice:
    """The first TPU kernel that supports the call, or the reasons of all."""
    from pallas_kernels.tpu import full_row, sliding_window

    reasons = []
    for kernel in (full_row, sliding_window):
        reason = kernel.unsupported_reason(*call[:5])
        if reason is None:
            return KernelChoice(kernel.attend)
        reasons.append(reason)
    return KernelChoice(None, "; ".join(reasons))


def select_gpu_kernel(call: AttentionCall, gpu: Gpu | None = None) -> KernelChoice:
    """The GPU kernel if it supports the call, or the reason. gpu: None for those of this process."""
    from pallas_kernels.gpu import flash

    reason = unsupported_gpu_reason(gpu) or flash.unsupported_reason(*call[:5])
    return KernelChoice(flash.attend) if reason is None else KernelChoice(None, reason)


def _select_cudnn(call: AttentionCall, gpu: Gpu | None) -> KernelChoice:
    from pallas_kernels.gpu import cudnn

    reason = cudnn.unsupported_reason(*call[:5], call.dropout, gpu)
    return KernelChoice(cudnn.attend) if reason is None else KernelChoice(None, reason)


_SELECTORS: dict[str, Callable[[AttentionCall, Gpu | None], KernelChoice]] = {
    "pallas_tpu": select_tpu_kernel,
    "pallas_gpu": select_gpu_kernel,
    "cudnn": _select_cudnn,
}
# What "auto" tries on a platform; it reports the reason of the last one. "pallas_gpu" has to be named: it compiles for
# a GPU without spills, but has never run on one.
AUTO_CANDIDATES = {"tpu": ("pallas_tpu",), "gpu": ("cudnn",)}


def decoding_platform(implementation: str) -> str | None:
    """The platform whose decode kernel `decode` takes under this name, or None.

    Args:
      implementation: A name from `IMPLEMENTATIONS`.

    Returns:
      "tpu", "gpu" or None. A cache for that kernel is a `PackedKV`.

    Examples:
      >>> with pallas_kernels.target_platform("tpu"):
      ...     pallas_kernels.decoding_platform("auto")
      'tpu'
      >>> pallas_kernels.decoding_platform("xla") is None
      True
    """
    if implementation in ("pallas_tpu", "pallas_gpu"):
        return implementation.removeprefix("pallas_")
    current = platform()
    name = f"pallas_{current}"
    taken = implementation == "pallas" or (implementation == "auto" and name in AUTO_CANDIDATES.get(current, ()))
    return current if taken and name in _SELECTORS else None


def _decode_kernel(target: str) -> ModuleType:
    if target == "tpu":
        from pallas_kernels.tpu import decode as tpu_decode

        return tpu_decode
    from pallas_kernels.gpu import decode as gpu_decode

    return gpu_decode


def select_decode_kernel(
    implementation: str, q: jax.Array, packed: PackedKV, split: PartitionAxes | None
) -> Callable[..., jax.Array] | None:
    """The `attend` of the decode kernel for a call of `decode`, or None where XLA takes it.

    Args:
      implementation: A name from `IMPLEMENTATIONS`. With "auto", the reason why a single token does not take a kernel
        is logged.
      q: [B, T, H, K].
      packed: The cache.
      split: Mesh axes of batch and heads, or None.

    Returns:
      The kernel's `attend`, or None.
    """
    target = decoding_platform(implementation)
    if target is None:
        return None
    kernel = _decode_kernel(target)
    B, _, H, K = q.shape
    G = packed.heads(K)
    reason = unsupported_partitioning_reason(split, B, H, G) or kernel.unsupported_reason(q, packed)
    if reason is None:
        return kernel.attend
    if q.shape[1] == 1 and implementation == "auto":
        log_once(f"decoding falls back to XLA: {reason}")
    return None


@functools.cache
def log_once(message: str) -> None:
    """Logs a warning the first time it is called with this message."""
    _log.warning(message)
