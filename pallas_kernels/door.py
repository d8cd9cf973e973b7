"""The one way into attention: checks the arguments and picks an implementation."""

from collections.abc import Callable

import jax.numpy as jnp

from pallas_kernels import blocked, reference
from pallas_kernels.bias import Bias
from pallas_kernels.choice import Call, choose
from pallas_kernels.devices import platform
from pallas_kernels.dropout import Dropout, seed_and_rate, words_of_heads
from pallas_kernels.mask import Mask
from pallas_kernels.rows import some_at_a_time
from pallas_kernels.shards import Split, attention_specs, on_each_shard


def attention(
    q,
    k,
    v,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | tuple[Bias, ...] | None = None,
    scale=None,
    dropout: Dropout | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
    split: Split | None = None,
):
    """Multi-head attention: softmax(scale * q.k + bias over the keys that `mask` shows) v.

    q [B, T, H, K], k [B, S, H, K], v [B, S, H, Kv], any float dtype -> [B, T, H, Kv] in q.dtype. Scores and softmax
    are float32 whatever the dtype; probabilities are cast to v.dtype for the second product. A query that sees no key
    gives zero, with zero gradients. With `return_weights`, (output, weights): [B, H, T, S] in q.dtype, after dropout.

    bias: one, or several in a tuple; they add up.
    scale: None for K**-0.5, a float, or a traced scalar.
    dropout: None, or a `Dropout`; the mask is the same in every implementation.
    implementation: "xla" holds all [B, H, T, S] scores (on a CPU of some examples at a time), "xla_blocked" those of a
        block of queries, in the gradient too. "pallas_tpu" and "pallas_gpu" are the kernel that takes the call, and
        "pallas" that of the platform: of the mesh in context, which may be of devices that are not here, or else of
        this process. "cudnn" is NVIDIA's, for bfloat16 and float16 without padding, window, bias or dropout. "auto"
        picks by platform, size and mask, and says once why it did not take a kernel. A named implementation never falls
        back to another.
    split: where a mesh is in context (`jax.set_mesh`), the axes over which examples and heads are split; a kernel then
        runs on every shard. XLA's implementations need no such word.

    Raises ValueError for shapes or options that do not fit, also for a named implementation that cannot take the call,
    with the reason; TypeError for dtypes that are not floating.
    """
    biases = as_tuple(bias)
    _check(q, k, v, mask, biases, dropout)
    chosen, kernel = choose(
        implementation, Call(q, k, v, mask, biases, return_weights, split, dropout is not None and dropout.rate > 0)
    )
    if kernel is not None:
        return by_kernel(kernel, q, k, v, mask=mask, bias=biases, scale=scale, dropout=dropout, split=split)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seed, rate = seed_and_rate(dropout)
    arguments = {"mask": mask, "biases": biases, "scale": scale, "seed": seed, "rate": rate}
    if chosen == "xla_blocked":
        return blocked.attend(q, k, v, **arguments)
    # Not where rules put examples on several devices, nor with dropout, whose hash counts them from the first.
    if platform() == "cpu" and split is None and seed is None and not return_weights:

        def attend(q, k, v, mask, biases):
            return reference.attend(q, k, v, **{**arguments, "mask": mask, "biases": biases})[0]

        return some_at_a_time(attend, q, k, v, mask, biases)
    out, weights = reference.attend(q, k, v, **arguments)
    return (out, weights.astype(q.dtype)) if return_weights else out


def by_kernel(
    kernel: Callable,
    q,
    k,
    v,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | tuple[Bias, ...] | None = None,
    scale=None,
    dropout: Dropout | None = None,
    split: Split | None = None,
):
    """`attention` by the `attend` of a kernel, which is not asked whether it takes the call."""
    seed, rate = seed_and_rate(dropout)
    words = None if seed is None else words_of_heads(seed, q.shape[0], q.shape[2])

    def attend(q, k, v, mask, biases, scale, words):
        return kernel(q, k, v, mask=mask, biases=biases, scale=scale, words=words, rate=rate)

    scale = jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.float32)
    return on_each_shard(attend, split, attention_specs)(q, k, v, mask, as_tuple(bias), scale, words)


def as_tuple(bias: Bias | tuple[Bias, ...] | None) -> tuple[Bias, ...]:
    return bias if isinstance(bias, tuple) else () if bias is None else (bias,)


def _check(q, k, v, mask, biases, dropout):
    given = [("mask", mask, Mask), ("dropout", dropout, Dropout | None), *(("bias", bias, Bias) for bias in biases)]
    for name, value, kinds in given:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be {kinds}; got {type(value)}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must have rank 4, [batch, length, heads, width]; got {list(x.shape)}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating; got {x.dtype}")
    (B, T, H, K), S = q.shape, k.shape[1]
    if k.shape != (B, S, H, K):
        raise ValueError(
            f"k must be [B, S, H, K] with q's B, H, K = {B}, {H}, {K} (heads cannot be grouped); got {list(k.shape)}"
        )
    if v.shape[:3] != (B, S, H):
        raise ValueError(f"v must be [B, S, H, Kv] with k's B, S, H = {B}, {S}, {H}; got {list(v.shape)}")
    mask.check(B, S)
    for bias in biases:
        bias.check(B, H, T, S, K)
