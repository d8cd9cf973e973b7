"""The door for a cache: attention of new queries over keys and values that are kept token by token."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pallas_kernels.bias import Bias
from pallas_kernels.choice import decoding_platform, say_once
from pallas_kernels.door import as_tuple, attention
from pallas_kernels.dropout import Dropout
from pallas_kernels.gpu import decode as gpu
from pallas_kernels.mask import Mask
from pallas_kernels.shards import Axes, Split, cannot_cut, on_each_shard, sides_specs
from pallas_kernels.stored import Stored
from pallas_kernels.tpu import decode as tpu

KERNELS = {"tpu": tpu, "gpu": gpu}


def decode(
    q,
    stored: Stored,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | tuple[Bias, ...] | None = None,
    scale=None,
    dropout: Dropout | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
    split: Split | None = None,
):
    """`attention` of q [B,T,H,K] over what a cache holds, with its arguments and results.

    With "auto" on a TPU, "pallas_tpu", "pallas_gpu" and "pallas", few queries (one token, or one of each beam) take a
    kernel that reads every key and value once, in 8 bits where they are kept so, and none of those before the first or
    behind the last that `mask` shows (on a TPU: of their blocks). What it does not take (many queries, dropout, weights
    to return) is `attention` over the keys and values as they are read. The kernel has no gradient.

    Raises:
      ValueError: shapes that do not fit, and what `attention` raises.
      NotImplementedError: a gradient through the kernel.
    """
    biases = as_tuple(bias)
    _check(q, stored, mask)
    kernel = KERNELS.get(decoding_platform(implementation))
    if kernel is not None and not return_weights and (dropout is None or dropout.rate == 0):
        reason = cannot_cut(split, q.shape) or kernel.refuses(q, stored)
        if reason is None:
            return by_kernel(kernel.attend, q, stored, mask=mask, bias=biases, scale=scale, split=split)
        if q.shape[1] == 1 and implementation == "auto":
            say_once(f"decoding falls back to XLA: {reason}")
    key, value = stored.read(q.shape[2], q.dtype)
    return attention(
        q,
        key,
        value,
        mask=mask,
        bias=biases,
        scale=scale,
        dropout=dropout,
        implementation=implementation,
        return_weights=return_weights,
        split=split,
    )


def by_kernel(
    kernel: Callable,
    q,
    stored: Stored,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | tuple[Bias, ...] | None = None,
    scale=None,
    split: Split | None = None,
):
    """`decode` by the `attend` of a kernel, which is not asked whether it takes the call."""

    def attend(q, stored, mask, biases, scale):
        return kernel(q, stored, mask=mask, biases=biases, scale=scale)

    scale = jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.float32)
    return on_each_shard(attend, split, _specs)(q, stored, mask, as_tuple(bias), scale)


def _specs(batch: Axes, heads: Axes, q, stored, mask, biases, scale) -> tuple:
    queries, kept, scales = P(batch, None, heads, None), P(batch, None, heads), P(batch, heads, None)
    kept = Stored(kept, kept, *(None if x is None else scales for x in stored[2:]))
    return (queries, kept, *sides_specs(batch, heads, mask, biases)), queries


def _check(q, stored: Stored, mask: Mask) -> None:
    if q.ndim != 4:
        raise ValueError(f"q must have rank 4, [batch, length, heads, width]; got {list(q.shape)}")
    B, _, H, K = q.shape
    S = stored.key.shape[1]
    if stored.key.shape != (B, S, H * K):
        raise ValueError(
            f"the stored keys must be [B, S, H*K] with q's B, H, K = {B}, {H}, {K}; got {list(stored.key.shape)}"
        )
    if stored.value.shape[:2] != (B, S) or stored.value.shape[2] % H:
        raise ValueError(
            f"the stored values must be [B, S, H*Kv] with the keys' B, S = {B}, {S} and H = {H}; "
            f"got {list(stored.value.shape)}"
        )
    for name, x, scale in (("key", stored.key, stored.key_scale), ("value", stored.value, stored.value_scale)):
        if (x.dtype == jnp.int8) != (scale is not None) or (scale is not None and scale.shape != (B, H, S)):
            got = None if scale is None else list(scale.shape)
            raise ValueError(
                f"{name}_scale is float32 [B, H, S] = {[B, H, S]} for int8 and None otherwise; {name} is {x.dtype}, "
                f"its scale {got}"
            )
    mask.check(B, S)
