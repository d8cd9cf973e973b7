"""Plain attention on a GPU by cuDNN, through `jax.nn.dot_product_attention`: causal or not, nothing else."""

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.device import OLDEST, Gpu, this_gpu, written
from pallas_kernels.kernel_call import of_one_dtype

WIDEST = 128
DTYPES = ("bfloat16", "float16")


def refuses(q, k, v, mask, biases, dropout: bool, gpu: Gpu | None = None) -> str | None:
    """Why cuDNN cannot take the call, in words; None where it can. The arguments are those of `attend`, whether
    there is dropout, and what it would run on, None for what is here."""
    here, installed = this_gpu() if gpu is None else gpu
    if here is None or here < OLDEST or not installed:
        return (
            "JAX compiles for cuDNN only where it is installed beside a GPU of compute capability "
            f"{written(OLDEST)} or more; this is a {jax.default_backend()}"
            f"{'' if here is None else f' of {written(here)}'}"
            f"{'' if here is None or installed else ' without cuDNN'}"
        )
    if dropout:
        return "cuDNN's dropout keeps other probabilities than the door's"
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not of_one_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)} for cuDNN; they are {q.dtype}, {k.dtype} and {v.dtype}"
    if biases:
        return "cuDNN would need a bias as an array [B, H, T, S]"
    if mask.window is not None:
        return "cuDNN has no window on both sides and no global keys"
    if mask.key_valid is not None:
        return "cuDNN takes padding as lengths, and Mask.key_valid may have holes"
    if mask.causal and (mask.query_start is not None or T != S):
        return "cuDNN's causal mask is that of as many queries as keys, without a query_start"
    if T == 1:
        return "one query is a decoding step, which is bound by memory and stays with XLA"
    if Kv != K or K % 8 or K > WIDEST:
        return f"cuDNN takes heads of one width, a multiple of 8 up to {WIDEST}; K = {K}, Kv = {Kv}"
    return None


def attend(q, k, v, *, mask, biases, scale, words, rate):
    """`reference.attend` without its weights, for calls that `refuses` takes. words: None, there is no dropout."""
    # The scale may be traced, cuDNN's is a constant.
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)
    return jax.nn.dot_product_attention(q, k, v, scale=1.0, is_causal=mask.causal, implementation="cudnn")
