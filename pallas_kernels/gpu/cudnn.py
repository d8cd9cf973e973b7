"""Plain or causal attention on a GPU by cuDNN, through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp

from pallas_kernels.bias import Biases
from pallas_kernels.gpu.device import MIN_CAPABILITY, Gpu, format_capability, local_gpu
from pallas_kernels.kernel_call import has_common_dtype
from pallas_kernels.mask import Mask

MAX_HEAD_DIM = 128
DTYPES = ("bfloat16", "float16")


def unsupported_reason(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases, dropout: bool, gpu: Gpu | None = None
) -> str | None:
    """Why cuDNN does not support a call.

    Args:
      q, k, v, mask, biases: As in `attend`.
      dropout: Whether probabilities are dropped.
      gpu: The GPU that the call would run on; None for those of this process.

    Returns:
      The reason, or None where it supports the call.
    """
    capability, installed = local_gpu() if gpu is None else gpu
    if capability is None or capability < MIN_CAPABILITY or not installed:
        found = "" if capability is None else f" of compute capability {format_capability(capability)}"
        return (
            "cuDNN requires an installed cuDNN and a GPU of compute capability "
            f"{format_capability(MIN_CAPABILITY)} or more; this is a {jax.default_backend()}{found}"
            f"{'' if capability is None or installed else ' without cuDNN'}"
        )
    if dropout:
        return "cuDNN's dropout mask differs from that of the other implementations"
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not has_common_dtype((q, k, v), DTYPES):
        return f"cuDNN requires q, k and v all {' or '.join(DTYPES)}; got {q.dtype}, {k.dtype} and {v.dtype}"
    if biases:
        return "cuDNN supports a bias only as an array [B, H, T, S]"
    if mask.window is not None:
        return "cuDNN supports neither a two-sided window nor global keys"
    if mask.key_valid is not None:
        return "cuDNN supports padding only as lengths, and Mask.key_valid may have holes"
    if mask.key_segments is not None:
        return "cuDNN does not support segments"
    if mask.causal and (mask.query_start is not None or T != S):
        return "cuDNN's causal mask requires as many queries as keys and no query_start"
    if T == 1:
        return "one query is a decode step, which is bound by memory and stays with XLA"
    if Kv != K or K % 8 or K > MAX_HEAD_DIM:
        return f"cuDNN requires K = Kv, a multiple of 8 up to {MAX_HEAD_DIM}; got K = {K}, Kv = {Kv}"
    return None


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    random_bits: jax.Array | None,
    rate: float,
) -> jax.Array:
    """Attention by cuDNN, for calls that `unsupported_reason` does not reject.

    Args:
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, K].
      mask: Causal or not.
      biases: Empty.
      scale: Factor on the dot products.
      random_bits: None, there is no dropout.
      rate: 0.

    Returns:
      [B, T, H, K] in q.dtype.
    """
    # The scale may be traced, cuDNN's is a constant.
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)
    return jax.nn.dot_product_attention(q, k, v, scale=1.0, is_causal=mask.causal, implementation="cudnn")
