"""Public attention API: validates the arguments and dispatches to an implementation."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp

from pallas_kernels import blocked, reference, sequence_parallel
from pallas_kernels.bias import Bias, Biases, as_tuple
from pallas_kernels.derivatives import named_residuals
from pallas_kernels.dispatch import AttentionCall, choose, decoding_platform, select_decode_kernel
from pallas_kernels.dropout import Dropout, dropout_bits, seed_and_rate
from pallas_kernels.kv_cache import PackedKV
from pallas_kernels.mask import Mask
from pallas_kernels.sharding import (
    Axes,
    PartitionAxes,
    attention_specs,
    decode_specs,
    platform,
    shard_mapped,
    vary_alike,
)

# A factor on the dot products, which may be traced.
Scale = float | jax.Array


class AttentionOptions(TypedDict, total=False):
    """The options of `attention` and `decode` that do not change the type of the result."""

    mask: Mask
    bias: Bias | Biases | None
    scale: Scale | None
    dropout: Dropout | None
    implementation: str
    split: PartitionAxes | None


@overload
def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    return_weights: Literal[False] = False,
    **options: Unpack[AttentionOptions],
) -> jax.Array: ...


@overload
def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, return_weights: Literal[True], **options: Unpack[AttentionOptions]
) -> tuple[jax.Array, jax.Array]: ...


@overload
def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, return_weights: bool, **options: Unpack[AttentionOptions]
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | Biases | None = None,
    scale: Scale | None = None,
    dropout: Dropout | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
    split: PartitionAxes | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Multi-head attention: softmax(scale * q.k + bias over the keys visible under `mask`) v.

    Where keys and values have fewer heads than the queries, G < H (grouped-query attention, arXiv:2305.13245;
    multi-query attention, arXiv:1911.02150, is G = 1), query head h attends to key head h // (H // G), as after Hugging
    Face's `repeat_kv`, but no implementation repeats keys or values in memory.

    Scores and softmax are float32 in every implementation; probabilities are cast to v.dtype for the second product. A
    query without a visible key gives zero, with zero gradients.

    Args:
      q: Queries [B, T, H, K], of any floating dtype.
      k: Keys [B, S, G, K], H a multiple of G.
      v: Values [B, S, G, Kv].
      mask: Visibility rule.
      bias: A bias of the scores, or a tuple of several, which are added up.
      scale: Factor on the dot products; None means K**-0.5. It may be a traced scalar.
      dropout: Dropout on the probabilities, with the same mask in every implementation.
      implementation: One of
        "xla": holds all scores [B, H, T, S] (on a CPU, of a microbatch).
        "xla_blocked": holds the scores of a block of queries, in the gradient too.
        "pallas_tpu", "pallas_gpu": the platform's kernel that supports the call.
        "pallas": the kernel of the target platform, that of the mesh in context or else of this process.
        "cudnn": NVIDIA's library, for bfloat16 and float16 without padding, window, bias or dropout.
        "auto": chooses by platform, size and mask, and logs once why it did not take a kernel.
        A named implementation never falls back to another one. The operations of a call are in the named scope
        "attention/NAME" of the implementation, which profiles show, and its residuals have the name "attention" for
        policies of `jax.checkpoint`.
      return_weights: Whether to return the weights too.
      split: With a mesh in context (`jax.set_mesh`), the mesh axes over which the batch and the heads are split; a
        kernel then runs on every shard, with the key heads of its query heads. XLA's implementations do not need it.
        With those of the length, `sequence_parallel` says what the devices exchange.

    Returns:
      [B, T, H, Kv] in q.dtype. With `return_weights`, a pair of that and the weights [B, H, T, S] in q.dtype, after
      dropout.

    Raises:
      ValueError: Shapes or options that do not fit, a named implementation that does not support the call, or a length
        that its devices do not divide.
      TypeError: Dtypes that are not floating, or arguments of a wrong type.

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> valid = jnp.arange(16) < jnp.array([[16], [9]])  # the second sequence has nine tokens
      >>> pallas_kernels.attention(q, k, v, mask=pallas_kernels.Mask(causal=True, key_valid=valid)).shape
      (2, 16, 4, 8)
      >>> values, weights = pallas_kernels.attention(q, k, v, return_weights=True)
      >>> weights.shape
      (2, 4, 16, 16)
    """
    biases = as_tuple(bias)
    _validate_attention(q, k, v, mask, biases, dropout)
    attend = partial(_attend, implementation=implementation, return_weights=return_weights)
    parallel = sequence_parallel.choose(q, k, mask, biases, split, return_weights)
    if parallel is not None:
        attend = partial(parallel, attend)
    return attend(q, k, v, mask=mask, biases=biases, scale=scale, dropout=dropout, split=split)


def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: Scale | None,
    dropout: Dropout | None,
    implementation: str,
    return_weights: bool,
    split: PartitionAxes | None = None,
    keys_over: Axes = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`attention` of keys that this device has, or those of `keys_over` (`reference.attend`) together."""
    dropped = dropout is not None and dropout.rate > 0
    call = AttentionCall(q, k, v, mask, biases, return_weights, split, dropped, keys_over)
    chosen, kernel = choose(implementation, call)
    options: dict[str, Any] = {
        "mask": mask,
        "bias": biases,
        "scale": scale,
        "dropout": dropout,
        "split": split,
        "keys_over": keys_over,
    }
    with jax.named_scope(f"attention/{chosen}"):
        if kernel is not None:
            return attention_with_kernel(kernel, q, k, v, **options)
        result = _attention_in_xla(chosen, q, k, v, return_weights=return_weights, **options)
        return (named_residuals(result[0]), result[1]) if isinstance(result, tuple) else named_residuals(result)


def _attention_in_xla(
    chosen: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    bias: Biases,
    scale: Scale | None,
    dropout: Dropout | None,
    split: PartitionAxes | None,
    keys_over: Axes,
    return_weights: bool,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`attention` by the implementation "xla" or "xla_blocked"."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seed, rate = seed_and_rate(dropout)
    options: dict[str, Any] = {"scale": scale, "seed": seed, "rate": rate, "keys_over": keys_over}
    if chosen == "xla_blocked":
        return blocked.attend(q, k, v, mask=mask, biases=bias, **options)
    # No microbatches where a call is split over devices, nor with dropout, whose hash depends on the example's index in
    # the batch.
    if platform() == "cpu" and split is None and keys_over is None and seed is None and not return_weights:

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases) -> jax.Array:
            return reference.attend(q, k, v, mask=mask, biases=biases, **options)[0]

        return reference.microbatched(attend, q, k, v, mask, bias)
    out, weights = reference.attend(q, k, v, mask=mask, biases=bias, **options)
    return (out, weights.astype(q.dtype)) if return_weights else out


def attention_with_kernel(
    kernel: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | Biases | None = None,
    scale: Scale | None = None,
    dropout: Dropout | None = None,
    split: PartitionAxes | None = None,
    keys_over: Axes = None,
) -> jax.Array:
    """`attention` by the `attend` of a kernel, without checking whether it supports the call.

    Args:
      kernel: A kernel's `attend`.
      q, k, v, mask, bias, scale, dropout, split: As in `attention`.
      keys_over: As in `reference.attend`, for a kernel that supports it.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    seed, rate = seed_and_rate(dropout)
    if keys_over is not None:
        kernel = partial(kernel, keys_over=keys_over)
    random_bits = None if seed is None else dropout_bits(seed, q.shape[0], q.shape[2])

    def attend(*arrays):
        q, k, v, mask, biases, scale, random_bits = vary_alike(arrays)
        return kernel(q, k, v, mask=mask, biases=biases, scale=scale, random_bits=random_bits, rate=rate)

    scale = jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.float32)
    return shard_mapped(attend, split, attention_specs)(q, k, v, mask, as_tuple(bias), scale, random_bits)


@overload
def decode(
    q: jax.Array,
    packed: PackedKV,
    *,
    return_weights: Literal[False] = False,
    **options: Unpack[AttentionOptions],
) -> jax.Array: ...


@overload
def decode(
    q: jax.Array, packed: PackedKV, *, return_weights: Literal[True], **options: Unpack[AttentionOptions]
) -> tuple[jax.Array, jax.Array]: ...


@overload
def decode(
    q: jax.Array, packed: PackedKV, *, return_weights: bool, **options: Unpack[AttentionOptions]
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


def decode(
    q: jax.Array,
    packed: PackedKV,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | Biases | None = None,
    scale: Scale | None = None,
    dropout: Dropout | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
    split: PartitionAxes | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`attention` of new queries over a packed KV cache.

    With "auto" on a TPU, "pallas_tpu", "pallas_gpu" and "pallas", a few queries (one token, or one of each beam) take a
    fused decode kernel. It reads each visible cache entry once (int8 included) and none before the first or after the
    last key visible under `mask` (on a TPU: of the blocks of keys). Calls that it does not support (many queries,
    dropout, weights to return) are `attention` over the unpacked cache. The kernel has no gradient.

    Args:
      q: [B, T, H, K].
      packed: The cache, S slots of G key heads, H a multiple of G.
      mask, bias, scale, dropout, implementation, return_weights, split: As in `attention`.

    Returns:
      As `attention`.

    Raises:
      ValueError: Shapes that do not fit, and what `attention` raises.
      NotImplementedError: A gradient through the kernel.

    Examples:
      >>> cache = pallas_kernels.PackedKV(key=jnp.ones((1, 32, 2 * 8)), value=jnp.ones((1, 32, 2 * 8)))
      >>> q = jnp.ones((1, 1, 4, 8))  # four heads of queries, two of keys
      >>> pallas_kernels.decode(q, cache, mask=pallas_kernels.Mask(causal=True, query_start=5)).shape
      (1, 1, 4, 8)
    """
    biases = as_tuple(bias)
    _validate_decode(q, packed, mask)
    if not return_weights and (dropout is None or dropout.rate == 0) and not sequence_parallel.is_split(split):
        kernel = select_decode_kernel(implementation, q, packed, split)
        if kernel is not None:
            with jax.named_scope(f"attention/pallas_{decoding_platform(implementation)}"):
                return decode_with_kernel(kernel, q, packed, mask=mask, bias=biases, scale=scale, split=split)
    key, value = packed.read(packed.heads(q.shape[3]), q.dtype)
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


def decode_with_kernel(
    kernel: Callable[..., jax.Array],
    q: jax.Array,
    packed: PackedKV,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | Biases | None = None,
    scale: Scale | None = None,
    split: PartitionAxes | None = None,
) -> jax.Array:
    """`decode` by the `attend` of a kernel, without checking whether it supports the call.

    Args:
      kernel: A decode kernel's `attend`.
      q, packed, mask, bias, scale, split: As in `decode`.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """

    def attend(*arrays):
        q, packed, mask, biases, scale = vary_alike(arrays)
        return kernel(q, packed, mask=mask, biases=biases, scale=scale)

    scale = jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, jnp.float32)
    return shard_mapped(attend, split, decode_specs)(q, packed, mask, as_tuple(bias), scale)


def _validate_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases, dropout: Dropout | None
) -> None:
    typed: list[tuple[str, object, Any]] = [("mask", mask, Mask), *(("bias", bias, Bias) for bias in biases)]
    if dropout is not None:
        typed.append(("dropout", dropout, Dropout))
    for name, value, expected in typed:
        if not isinstance(value, expected):
            raise TypeError(f"{name} must be {expected}; got {type(value)}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must have rank 4, [batch, length, heads, width]; got {list(x.shape)}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating; got {x.dtype}")
    (B, T, H, K), (S, G) = q.shape, k.shape[1:3]
    if k.shape != (B, S, G, K):
        raise ValueError(f"k must be [B, S, G, K] with q's B, K = {B}, {K}; got {list(k.shape)}")
    if v.shape[:3] != (B, S, G):
        raise ValueError(f"v must be [B, S, G, Kv] with k's B, S, G = {B}, {S}, {G}; got {list(v.shape)}")
    _validate_groups(H, G)
    mask.validate(B, T, S)
    for bias in biases:
        bias.validate(B, H, T, S, K)


def _validate_groups(H: int, G: int) -> None:
    if not G or H % G:
        raise ValueError(
            f"the number of query heads must be a multiple of the number of key heads, as query head h attends to key "
            f"head h // (H // G); got H = {H} and G = {G}"
        )


def _validate_decode(q: jax.Array, packed: PackedKV, mask: Mask) -> None:
    if q.ndim != 4:
        raise ValueError(f"q must have rank 4, [batch, length, heads, width]; got {list(q.shape)}")
    B, T, H, K = q.shape
    S, G = packed.key.shape[1], packed.heads(K)
    if packed.key.shape != (B, S, G * K):
        raise ValueError(f"the packed keys must be [B, S, G*K] with q's B, K = {B}, {K}; got {list(packed.key.shape)}")
    _validate_groups(H, G)
    if packed.value.shape[:2] != (B, S) or packed.value.shape[2] % G:
        raise ValueError(
            f"the packed values must be [B, S, G*Kv] with the keys' B, S = {B}, {S} and G = {G}; "
            f"got {list(packed.value.shape)}"
        )
    for name, x, scale in (("key", packed.key, packed.key_scale), ("value", packed.value, packed.value_scale)):
        if (x.dtype == jnp.int8) != (scale is not None) or (scale is not None and scale.shape != (B, G, S)):
            got = None if scale is None else list(scale.shape)
            raise ValueError(
                f"{name}_scale must be float32 [B, G, S] = {[B, G, S]} for int8 and None otherwise; {name} is "
                f"{x.dtype} and its scale {got}"
            )
    mask.validate(B, T, S)
    if mask.key_segments is not None:
        raise ValueError("decoding supports no segments: a KV cache holds one sequence for each example")
