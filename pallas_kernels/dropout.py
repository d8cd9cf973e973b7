"""Dropout on attention probabilities whose mask is a function of positions, the same for every implementation.

A probability is kept where a 32-bit hash of (seed, example, head, query, key) is large enough. The hash is computed in
three steps, so that a kernel computes the first two once per head and once per query. Odd multipliers (from the golden
ratio and pi) spread small counters before they enter the hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

# Two uint32: an array [2], or two scalars that a kernel has read.
Seed = jax.Array | Sequence[jax.Array]


def _mix(x: jax.Array, y: jax.Array) -> jax.Array:
    """The 32-bit finaliser of MurmurHash3 with Mueller's multipliers ("lowbias32", 0.17 bits of avalanche bias), with a
    second word `y` entering half way: so two queries share a sequence only where 64 bits agree."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ y
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def head_bits(seed: Seed, b: jax.Array, h: jax.Array) -> jax.Array:
    """Random bits of each head: uint32, in the broadcast shape of the uint32 indices b (example) and h (head)."""
    return _mix(seed[0] + b * jnp.uint32(0x9E3779B9), seed[1] + h * jnp.uint32(0x85EBCA77))


def dropout_bits(seed: jax.Array, B: int, H: int) -> jax.Array:
    """All random bits that the dropout masks of a call depend on.

    Args:
      seed: uint32 [2].
      B: Number of examples.
      H: Number of heads.

    Returns:
      uint32 [B, H, 3]: the bits of each head, then the seed.
    """
    heads = head_bits(seed, jnp.arange(B, dtype=jnp.uint32)[:, None], jnp.arange(H, dtype=jnp.uint32))
    return jnp.concatenate([heads[..., None], jnp.broadcast_to(seed, (B, H, 2))], axis=-1)


def query_bits(head: jax.Array, seed: Seed, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two words of random bits for each query index t (uint32) of a head with the bits `head`."""
    return _mix(head ^ t * jnp.uint32(0xC2B2AE3D), seed[0]), _mix(head + t * jnp.uint32(0x27D4EB2F), seed[1])


def key_bits(s: jax.Array) -> jax.Array:
    """A word of random bits for each key index s (uint32)."""
    return s * jnp.uint32(0x9E3779B9)


def keep_from_bits(first: jax.Array, second: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Bool keep mask in the broadcast shape of the two words of `query_bits` and of `key_bits`."""
    return _mix(first + key, second) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def keep_mask(seed: Seed, b, h, t, s, rate: float) -> jax.Array:
    """Which probabilities dropout keeps.

    A pure function of (seed, example, head, query index, key index), so every implementation, block size and the
    backward pass can recompute the same mask. A probability is kept where a 32-bit hash is at least rate * 2**32; the
    exact rate differs from `rate` by less than 2**-32. The hash is no cryptographic generator: it is chosen for two
    multiplications per element.

    Args:
      seed: uint32 [2].
      b, h, t, s: Integer arrays (or ints), indices of example, head, query and key.
      rate: Probability to drop, in [0, 1).

    Returns:
      bool, in the broadcast shape of b, h, t and s.
    """
    b, h, t, s = (jnp.asarray(x).astype(jnp.uint32) for x in (b, h, t, s))
    return keep_from_bits(*query_bits(head_bits(seed, b, h), seed, t), key_bits(s), rate)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropout:
    """Dropout on attention probabilities.

    Attributes:
      rate: Static float in [0, 1), the fraction of probabilities set to zero.
      key: A JAX random key.

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> dropout = pallas_kernels.Dropout(rate=0.1, key=jax.random.key(1))
      >>> pallas_kernels.attention(q, k, v, dropout=dropout).shape
      (2, 16, 4, 8)
    """

    rate: float = field(metadata={"static": True})
    key: jax.Array

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout.rate must be in [0, 1); got {self.rate}")

    def seed(self) -> jax.Array:
        """The seed of `keep_mask`, uint32 [2]."""
        return jax.random.bits(self.key, (2,), jnp.uint32)


def seed_and_rate(dropout: Dropout | None) -> tuple[jax.Array | None, float]:
    """The seed uint32 [2] and the rate; None and 0 where nothing is dropped."""
    return (None, 0.0) if dropout is None or dropout.rate == 0 else (dropout.seed(), dropout.rate)


def drop_probabilities(probabilities: jax.Array, seed: jax.Array, rate: float, t: jax.Array, s: jax.Array) -> jax.Array:
    """Inverted dropout: the kept probabilities are divided by 1 - rate.

    Args:
      probabilities: [B, H, T, S].
      seed: uint32 [2].
      rate: Probability to drop.
      t: int [T], query indices.
      s: int [S] or [B, S], key indices.

    Returns:
      [B, H, T, S] in the dtype of `probabilities`.

    Examples:
      >>> probabilities, seed = jnp.full((1, 2, 4, 4), 0.25), jnp.array([0, 1], jnp.uint32)
      >>> dropped = pallas_kernels.drop_probabilities(probabilities, seed, 0.5, jnp.arange(4), jnp.arange(4))
      >>> sorted(set(dropped.ravel().tolist()))
      [0.0, 0.5]
    """
    B, H = probabilities.shape[:2]
    b, h = jnp.arange(B)[:, None, None, None], jnp.arange(H)[:, None, None]
    s = s if s.ndim == 1 else s[:, None, None, :]
    return jnp.where(keep_mask(seed, b, h, t[:, None], s, rate), probabilities / (1 - rate), 0)


# The name that other packages import so far.
drop = drop_probabilities
