"""The key-value cache: a value that goes into `apply` and comes out again.

The layout [B,H,S,K] is chosen here and nowhere else. In a CPU decode loop [B,S,H,K] was copied at every token: 3.5x to
5x slower at B=8, S=512; at B=1 two measurements disagree (1.0x and 2x at S=1024). Two shared cores.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention: both stored as [B,H,S,K]."""

    key: jax.Array
    value: jax.Array

    @classmethod
    def zeros(cls, batch: int, length: int, heads: int, head_dim: int, dtype) -> Self:
        shape = (batch, heads, length, head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    @classmethod
    def of(cls, key: jax.Array, value: jax.Array) -> Self:
        """From projections [B,S,H,K]."""
        return cls(key.swapaxes(1, 2), value.swapaxes(1, 2))

    @property
    def length(self) -> int:
        return self.key.shape[2]

    def read(self, dtype) -> tuple[jax.Array, jax.Array]:
        """Keys and values as the attention function takes them, [B,S,H,K]; the swap folds into its products."""
        return self.key.swapaxes(1, 2).astype(dtype), self.value.swapaxes(1, 2).astype(dtype)

    def write(self, key: jax.Array, value: jax.Array, start: jax.Array) -> Self:
        """Puts [B,T,H,K] at slots start..start+T-1: a write the size of the new tokens, not of the cache."""

        def put(old, new):
            return jax.lax.dynamic_update_slice_in_dim(old, new.swapaxes(1, 2).astype(old.dtype), start, axis=2)

        return type(self)(put(self.key, key), put(self.value, value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """What one layer keeps: its past, and the projected encoder states once they are known."""

    past: KeyValue
    cross: KeyValue | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """All that decoding remembers.

    Attributes:
      layers: one entry per layer. Separate arrays: a stacked cache measured 1.3x slower in a CPU decode loop.
      valid: bool [B,S], the slots that hold real tokens (False: padding, or not written yet).
      length: int32 scalar, the number of slots written so far (the same for all rows; padding counts).
    """

    layers: tuple[LayerCache, ...]
    valid: jax.Array
    length: jax.Array

    @classmethod
    def zeros(cls, batch: int, length: int, *, layers: int, heads: int, head_dim: int, dtype) -> Self:
        """An empty cache: shape arithmetic only, no parameters needed."""
        if batch < 1 or length < 1:
            raise ValueError(f"a cache needs a batch and a length of at least 1, got batch={batch}, length={length}")
        entries = tuple(LayerCache(KeyValue.zeros(batch, length, heads, head_dim, dtype)) for _ in range(layers))
        return cls(entries, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))

    @property
    def capacity(self) -> int:
        return self.valid.shape[1]

    def reserve(self, batch: int, tokens: int, attention_mask: jax.Array | None) -> Self:
        """Makes room for `tokens` new ones and records which of them are real.

        Args:
          attention_mask: [B,T] for the new tokens, or [B,S] for the whole cache; None means all real.

        Raises:
          ValueError: another batch size, a mask of another shape, or more tokens than slots are left (where
            `length` is concrete; under jit the hidden states become NaN instead, see `overflow`).
        """
        if batch != self.valid.shape[0]:
            raise ValueError(f"the cache was made for a batch of {self.valid.shape[0]}, got a batch of {batch}")
        used = self.length if isinstance(self.length, jax.core.Tracer) else int(self.length)
        if tokens > self.capacity or (isinstance(used, int) and used + tokens > self.capacity):
            raise ValueError(
                f"the cache has {self.capacity} slots, {used} used, and {tokens} more tokens came; "
                f"make it longer: init_cache(batch, length)"
            )
        if attention_mask is None:
            attention_mask = jnp.ones((batch, tokens), bool)
        if attention_mask.shape == (batch, tokens):
            valid = jax.lax.dynamic_update_slice_in_dim(self.valid, attention_mask.astype(bool), self.length, axis=1)
        elif attention_mask.shape == self.valid.shape:
            valid = attention_mask.astype(bool)
        else:
            raise ValueError(
                f"with a cache, attention_mask is [batch, new tokens] = {(batch, tokens)} or "
                f"[batch, cache length] = {self.valid.shape}; got {attention_mask.shape}"
            )
        return dataclasses.replace(self, valid=valid)

    def overflow(self, tokens: int) -> jax.Array:
        """bool scalar: `tokens` more do not fit. A traced overflow must not overwrite the last slots unseen."""
        return self.length + tokens > self.capacity

    def advance(self, layers: tuple[LayerCache, ...], tokens: int) -> Self:
        return dataclasses.replace(self, layers=layers, length=self.length + tokens)
