"""What one attention keeps of its keys and values, in the order that reads fastest where it is read."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

from pallas_kernels import Stored, attention, decode, platform, restored


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention, floating or int8 (a quarter of float32, with a scale for every token and head).

    Head after head they are read by XLA, each in the order in which its product runs through it: in a CPU decode loop
    [B,S,H,K] was copied at every token, 3.5x to 5x slower at B=8, S=512, and keys [B,H,S,K] whenever a text had several
    queries, 13x slower with 4 beams at B=48, S=256. Token after token they are read by the decode kernels, and a token
    is written in one piece.

    Attributes:
      key, value: [B,H,K,S] and [B,H,S,K], or both [B,S,H*K] where `by_token`.
      key_scale, value_scale: float32 [B,H,S] where they are int8, else None.
      heads: H.
    """

    key: jax.Array
    value: jax.Array
    key_scale: jax.Array | None
    value_scale: jax.Array | None
    heads: int = dataclasses.field(metadata={"static": True})
    by_token: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def of(cls, key: jax.Array, value: jax.Array, dtype, by_token: bool = False) -> Self:
        """From projections [B,S,H,K]."""
        (key, key_scale), (value, value_scale) = (_packed(x, dtype) for x in (key, value))
        heads = key.shape[2]
        if by_token:
            key, value = (x.reshape(*x.shape[:2], -1) for x in (key, value))
        else:
            key, value = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
        return cls(key, value, key_scale, value_scale, heads, by_token)

    @classmethod
    def zeros(cls, shape: tuple[int, int, int, int], dtype, by_token: bool = False) -> Self:
        """With room for [B,S,H,K]."""
        some = jax.ShapeDtypeStruct(shape, jnp.float32)
        kept = jax.eval_shape(lambda x: cls.of(x, x, dtype, by_token), some)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept)

    def another(self, key: jax.Array, value: jax.Array) -> Self:
        """The same kind, from projections [B,S,H,K]."""
        return self.of(key, value, self.key.dtype, self.by_token)

    @property
    def length(self) -> int:
        return self.value.shape[1 if self.by_token else 2]

    def read(self, dtype) -> tuple[jax.Array, jax.Array]:
        """As the attention function takes them, [B,S,H,K]; a transposition folds into its products."""
        if self.by_token:
            return self._stored.read(self.heads, dtype)
        key, value = self.key.transpose(0, 3, 1, 2), self.value.swapaxes(1, 2)
        return restored(key, self.key_scale, dtype), restored(value, self.value_scale, dtype)

    def write(self, key: jax.Array, value: jax.Array, start: jax.Array) -> Self:
        """Puts [B,T,H,K] at slots start..start+T-1: a write the size of the new tokens, not of the cache."""
        new = self.another(key, value)
        inside = isinstance(self.key, jax.core.Tracer) or isinstance(start, jax.core.Tracer)
        alone = len(key) == 1 and not self.by_token and platform() == "cpu"
        return _written_apart(self, new, start) if inside and alone else _written(self, new, start)

    def attend(self, query: jax.Array, **options):
        """`pallas_kernels.attention` of queries [B,T,H,K] over all slots, with its options and results."""
        if self.by_token:
            return decode(query, self._stored, **options)
        return attention(query, *self.read(query.dtype), **options)

    @property
    def _stored(self) -> Stored:
        return Stored(self.key, self.value, self.key_scale, self.value_scale)


def _written(old: KeyValue, new: KeyValue, start: jax.Array) -> KeyValue:
    key_axis, value_axis = (1, 1) if old.by_token else (3, 2)

    def put(name: str, axis: int):
        kept = getattr(old, name)
        return None if kept is None else jax.lax.dynamic_update_slice_in_dim(kept, getattr(new, name), start, axis)

    return dataclasses.replace(
        old,
        key=put("key", key_axis),
        value=put("value", value_axis),
        key_scale=put("key_scale", 2),
        value_scale=put("value_scale", 2),
    )


@jax.custom_jvp
def _written_apart(old: KeyValue, new: KeyValue, start: jax.Array) -> KeyValue:
    """The same, where XLA cannot merge it with what reads it.

    For one text XLA's CPU compiler writes twice, for the product and for what is kept, and copies the whole cache four
    times at every token for that, a tenth of a step of GPT-2 small. It does not look into a loop, here of one turn that
    it cannot count. (Such a loop has no gradient of its own.)
    """
    return jax.lax.fori_loop(0, jnp.minimum(start, 0) + 1, lambda _, kept: _written(kept, new, start), old)


@_written_apart.defjvp
def _written_apart_jvp(primals, tangents):
    return _written_apart(*primals), jax.jvp(_written, primals, tangents)[1]


def check_kept_dtype(dtype) -> None:
    """Raises ValueError where keys and values cannot be kept in a dtype: one neither floating nor int8."""
    dtype = jnp.dtype(dtype)
    if not (jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.int8):
        raise ValueError(f"the dtype of a cache is floating or int8, got {dtype}")


def _packed(x: jax.Array, dtype) -> tuple[jax.Array, jax.Array | None]:
    """[B,S,H,K] in that dtype, and for int8 the scale of each vector, float32 [B,H,S]."""
    if jnp.dtype(dtype) != jnp.int8:
        return x.astype(dtype), None
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1, keepdims=True) / 127.0
    return jnp.round(x / jnp.where(scale == 0.0, 1.0, scale)).astype(jnp.int8), scale[..., 0].swapaxes(1, 2)
