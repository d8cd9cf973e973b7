"""The packed KV cache, and what the decode kernels of every platform read of a call."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.base2 import LOG2E, MIN_BIAS
from pallas_kernels.bias import Biases
from pallas_kernels.mask import MASK_VALUE, Mask


class PackedKV(NamedTuple):
    """Keys and values of a cache in the layout of the decode kernels: token-major, with the heads of a token adjacent.

    Attributes:
      key: [B, S, G*K], floating or int8.
      value: [B, S, G*Kv], floating or int8.
      key_scale: float32 [B, G, S], by which an int8 key vector is multiplied; else None.
      value_scale: The same for values.

    Examples:
      >>> cache = pallas_kernels.PackedKV(key=jnp.ones((1, 32, 2 * 8)), value=jnp.ones((1, 32, 2 * 8)))
      >>> cache.heads(8)
      2
      >>> key, value = cache.read(2, jnp.bfloat16)
      >>> key.shape
      (1, 32, 2, 8)
    """

    key: jax.Array
    value: jax.Array
    key_scale: jax.Array | None = None
    value_scale: jax.Array | None = None

    def heads(self, head_dim: int) -> int:
        """G, the number of key heads, from their width K."""
        return self.key.shape[2] // head_dim

    def read(self, heads: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
        """Keys [B, S, G, K] and values [B, S, G, Kv] for `attention`, in the given dtype. heads: G."""
        pairs = ((self.key, self.key_scale), (self.value, self.value_scale))
        key, value = (unpack(x.reshape(*x.shape[:2], heads, -1), scale, dtype) for x, scale in pairs)
        return key, value


def unpack(x: jax.Array, scale: jax.Array | None, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Casts cached keys or values, and dequantizes them where they have a scale.

    Args:
      x: [B, S, G, K], floating or int8.
      scale: float32 [B, G, S], or None.
      dtype: Of the result.

    Returns:
      [B, S, G, K].

    Examples:
      >>> x, scale = jnp.full((1, 3, 2, 8), 100, jnp.int8), jnp.full((1, 2, 3), 0.5)
      >>> float(pallas_kernels.unpack(x, scale, jnp.float32)[0, 0, 0, 0])
      50.0
    """
    if scale is None:
        return x.astype(dtype)
    return (x.astype(jnp.float32) * scale.swapaxes(1, 2)[..., None]).astype(dtype)


class DecodeOperands(NamedTuple):
    """The arrays that a decode kernel reads; None where a call has no such part.

    The heads that share a key head are further queries of it, R = H/G for each token.

    Attributes:
      q: [B, T*R, G, K], scaled by scale * log2(e).
      key: [B, S, G*K].
      value: [B, S, G*Kv].
      key_scale, value_scale: float32 [B, G, S] of an int8 cache.
      bias: float32 [B or 1, T*R, G, S], or [B or 1, T, 1, S] where all heads share it: biases and mask in units of
        log2, MASK_VALUE where a key is masked.
      visible_range: int32 [2, B], the first and the last key that any query sees; S - 1 and -1 for an example without
        a visible key.
    """

    q: jax.Array
    key: jax.Array
    value: jax.Array
    key_scale: jax.Array | None
    value_scale: jax.Array | None
    bias: jax.Array | None
    visible_range: jax.Array


def decode_operands(
    q: jax.Array, packed: PackedKV, *, mask: Mask, biases: Biases, scale: jax.Array | float
) -> DecodeOperands:
    """The operands of a decode kernel for a call of `pallas_kernels.decode`."""
    (B, T, _, K), S = q.shape, packed.key.shape[1]
    scaled = (q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype)
    bias = _bias_and_mask(q, packed, mask, biases, scale)
    if bias is not None and bias.shape[2] > 1:
        bias = to_key_heads(bias, packed.heads(K))
    return DecodeOperands(to_key_heads(scaled, packed.heads(K)), *packed, bias, _visible_range(mask, B, T, S))


def to_key_heads(x: jax.Array, G: int) -> jax.Array:
    """[B, T, H, N] -> [B, T*R, G, N]: the heads that share a key head as further queries of it."""
    B, T, H, N = x.shape
    return x.reshape(B, T, G, H // G, N).swapaxes(2, 3).reshape(B, T * H // G, G, N)


def to_query_heads(x: jax.Array, H: int) -> jax.Array:
    """[B, T*R, G, N] -> [B, T, H, N], the inverse of `to_key_heads`."""
    B, queries, G, N = x.shape
    return x.reshape(B, queries * G // H, H // G, G, N).swapaxes(2, 3).reshape(B, queries * G // H, H, N)


def _bias_and_mask(
    q: jax.Array, packed: PackedKV, mask: Mask, biases: Biases, scale: jax.Array | float
) -> jax.Array | None:
    """The sum of all biases and the mask, or None where there is nothing to add."""
    if mask.allows_all and not biases:
        return None
    (B, T, _, K), S = q.shape, packed.key.shape[1]
    total = jnp.zeros((1, 1, T, S), jnp.float32)
    if biases:
        key, _ = packed.read(packed.heads(K), q.dtype)  # used only by a bias that multiplies the keys
        for bias in biases:
            term = bias.dense(q, key, mask.start)
            total = total + (term * scale if bias.before_scale else term)
        total = jnp.maximum(total * LOG2E, MIN_BIAS)
    if not mask.allows_all:
        total = jnp.where(mask.dense(B, T, S), total, MASK_VALUE)
    return total.swapaxes(1, 2)


def _visible_range(mask: Mask, B: int, T: int, S: int) -> jax.Array:
    if mask.allows_all:
        return jnp.broadcast_to(jnp.array([[0], [S - 1]], jnp.int32), (2, B))
    visible = jnp.broadcast_to(mask.dense(B, T, S).any(axis=(1, 2)), (B, S))
    positions = jnp.arange(S, dtype=jnp.int32)
    return jnp.stack([jnp.where(visible, positions, S - 1).min(axis=1), jnp.where(visible, positions, -1).max(axis=1)])


def without_gradient(decode: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Wraps decode(plan, operands) so that differentiating it raises NotImplementedError with a hint."""
    wrapped = jax.custom_jvp(decode, nondiff_argnums=(0,))

    @wrapped.defjvp
    def _no_gradient(plan, primals, tangents):
        raise NotImplementedError(
            "the decode kernel has no gradient; to differentiate through a cache, construct the model with "
            "attention='xla'"
        )

    return wrapped
