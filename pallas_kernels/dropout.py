"""Dropout on attention probabilities whose mask is a function of positions, the same for every implementation."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp


def _mix(x, y):
    """The 32-bit finaliser of MurmurHash3 with Mueller's multipliers ("lowbias32", 0.17 bits of avalanche bias), with a
    second word `y` entering half way: so two rows share a sequence only where 64 bits agree."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x ^ y
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


# A probability survives where a 32-bit hash of (seed, example, head, query, key) is large enough. The hash is made in
# three steps, so that a kernel computes the first two once for a head and for a query. Odd multipliers (from the golden
# ratio and pi) spread small counters before they meet the hash.


def head_words(seed, b, h) -> jax.Array:
    """uint32 in the broadcast shape of the uint32 arrays b and h, examples and heads. seed: two uint32."""
    return _mix(seed[0] + b * jnp.uint32(0x9E3779B9), seed[1] + h * jnp.uint32(0x85EBCA77))


def words_of_heads(seed, B: int, H: int) -> jax.Array:
    """uint32 [B, H, 3]: all that the mask of one head depends on, its word and the seed."""
    heads = head_words(seed, jnp.arange(B, dtype=jnp.uint32)[:, None], jnp.arange(H, dtype=jnp.uint32))
    return jnp.concatenate([heads[..., None], jnp.broadcast_to(seed, (B, H, 2))], axis=-1)


def row_words(head, seed, t) -> tuple[jax.Array, jax.Array]:
    """Two words for each query index t (uint32) of a head."""
    return _mix(head ^ t * jnp.uint32(0xC2B2AE3D), seed[0]), _mix(head + t * jnp.uint32(0x27D4EB2F), seed[1])


def column_words(s) -> jax.Array:
    """A word for each key index s (uint32)."""
    return s * jnp.uint32(0x9E3779B9)


def keep_words(first, second, column, rate: float) -> jax.Array:
    """bool, from the words of queries and keys."""
    return _mix(first + column, second) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def keep(seed, b, h, t, s, rate: float) -> jax.Array:
    """Which probabilities survive: bool, in the broadcast shape of the integer arrays b, h, t, s.

    A pure function of (seed, example, head, query index, key index), so every implementation, block size and the
    backward pass can recompute the same mask. seed: uint32 [2]. A probability survives where a 32-bit hash is at least
    rate * 2**32; the exact rate differs from `rate` by less than 2**-32. The hash is no cryptographic generator: it is
    chosen for two multiplications per element.
    """
    b, h, t, s = (jnp.asarray(x).astype(jnp.uint32) for x in (b, h, t, s))
    return keep_words(*row_words(head_words(seed, b, h), seed, t), column_words(s), rate)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropout:
    """rate: static float in [0, 1), the share of probabilities set to zero. key: a JAX random key."""

    rate: float = field(metadata={"static": True})
    key: jax.Array

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout.rate must be in [0, 1); got {self.rate}")

    def seed(self) -> jax.Array:
        """uint32 [2]."""
        return jax.random.bits(self.key, (2,), jnp.uint32)


def seed_and_rate(dropout: Dropout | None) -> tuple[jax.Array | None, float]:
    """uint32 [2] and the rate; None and 0 where nothing is dropped."""
    return (None, 0.0) if dropout is None or dropout.rate == 0 else (dropout.seed(), dropout.rate)


def drop(probabilities, seed, rate, t, s):
    """Inverted dropout: survivors of [B, H, T, S] are divided by 1 - rate. t [T] and s [S] or [B, S] are indices."""
    B, H = probabilities.shape[:2]
    b, h = jnp.arange(B)[:, None, None, None], jnp.arange(H)[:, None, None]
    s = s if s.ndim == 1 else s[:, None, None, :]
    return jnp.where(keep(seed, b, h, t[:, None], s, rate), probabilities / (1 - rate), 0)
