"""The key-value cache: a value that goes into `apply` and comes out again."""

import dataclasses
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp

from jaxmodels.arrays import Heads
from jaxmodels.layers.platform import update_slots
from pallas_kernels import PackedKV, attention, decode, unpack

KeyValueT = TypeVar("KeyValueT", bound="KeyValue")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention: floating point, or int8 with a float32 scale for every token and head.

    The layout is the one that the reader runs through in order. XLA's products read the heads one after the other, keys
    with the slots last (other layouts are copied at every step on a CPU: benchmarks/README.md, "Cache layout"). The
    decode kernels read tokens one after the other, and a token is written in one piece.

    Attributes:
      key, value: [B,H,K,S] and [B,H,S,K], or both [B,S,H*K] where `token_major`.
      key_scale, value_scale: float32 [B,H,S] where they are int8, else None.
      heads: H.
    """

    key: jax.Array
    value: jax.Array
    key_scale: jax.Array | None
    value_scale: jax.Array | None
    heads: int = dataclasses.field(metadata={"static": True})
    token_major: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def of(cls, key: Heads, value: Heads, dtype: Any, token_major: bool = False) -> Self:
        """From projections [B,S,H,K]."""
        (key, key_scale), (value, value_scale) = (_quantized(x, dtype) for x in (key, value))
        heads = key.shape[2]
        if token_major:
            key, value = (x.reshape(*x.shape[:2], -1) for x in (key, value))
        else:
            key, value = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
        return cls(key, value, key_scale, value_scale, heads, token_major)

    @classmethod
    def zeros(cls, shape: tuple[int, int, int, int], dtype: Any, token_major: bool = False) -> Self:
        """With slots for [B,S,H,K]."""
        projection = jax.ShapeDtypeStruct(shape, jnp.float32)
        template = jax.eval_shape(lambda x: cls.of(x, x, dtype, token_major), projection)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template)

    def like(self, key: Heads, value: Heads) -> Self:
        """Projections [B,S,H,K] in the dtype and layout of this cache."""
        return self.of(key, value, self.key.dtype, self.token_major)

    @property
    def length(self) -> int:
        """S, the number of slots."""
        return self.value.shape[1 if self.token_major else 2]

    def read(self, dtype: Any) -> tuple[Heads, Heads]:
        """Keys and values [B,S,H,K] as the attention function takes them; a transposition folds into its products."""
        if self.token_major:
            return self._packed.read(self.heads, dtype)
        key, value = self.key.transpose(0, 3, 1, 2), self.value.swapaxes(1, 2)
        return unpack(key, self.key_scale, dtype), unpack(value, self.value_scale, dtype)

    def write(self, key: Heads, value: Heads, start: jax.Array) -> Self:
        """Puts [B,T,H,K] into slots start..start+T-1: a write of the size of the new tokens, not of the cache."""
        new = self.like(key, value)
        traced = isinstance(self.key, jax.core.Tracer) or isinstance(start, jax.core.Tracer)
        isolated = traced and len(key) == 1 and not self.token_major
        return update_slots(_write, self, new, start, isolated=isolated)

    def attend(self, query: Heads, **options):
        """`pallas_kernels.attention` of queries [B,T,H,K] over all slots, with its options and results."""
        if self.token_major:
            return decode(query, self._packed, **options)
        return attention(query, *self.read(query.dtype), **options)

    @property
    def _packed(self) -> PackedKV:
        return PackedKV(self.key, self.value, self.key_scale, self.value_scale)


def _write(old: KeyValueT, new: KeyValueT, start: jax.Array) -> KeyValueT:
    key_axis, value_axis = (1, 1) if old.token_major else (3, 2)

    def put(name: str, axis: int):
        array = getattr(old, name)
        return None if array is None else jax.lax.dynamic_update_slice_in_dim(array, getattr(new, name), start, axis)

    return dataclasses.replace(
        old,
        key=put("key", key_axis),
        value=put("value", value_axis),
        key_scale=put("key_scale", 2),
        value_scale=put("value_scale", 2),
    )


def _quantized(x: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """[B,S,H,K] in that dtype, and for int8 the scale of each vector, float32 [B,H,S]."""
    if jnp.dtype(dtype) != jnp.int8:
        return x.astype(dtype), None
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1, keepdims=True) / 127.0
    return jnp.round(x / jnp.where(scale == 0.0, 1.0, scale)).astype(jnp.int8), scale[..., 0].swapaxes(1, 2)


def check_cache_dtype(dtype: Any) -> None:
    """Raises ValueError for a dtype that is neither floating nor int8."""
    dtype = jnp.dtype(dtype)
    if not (jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.int8):
        raise ValueError(f"the dtype of a cache is floating or int8, got {dtype}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamSlots:
    """Which cache slots each of K beams sees.

    The beams of an example share the slots before the first beam token; every later call writes one token of each beam.

    Slots are never moved: when beams are reordered, only the flags are. (Reordering the cache itself would copy it at
    every step, and a prompt would be stored once for every beam.)

    Attributes:
      visible: bool [B,K,S], the slots that each beam sees.
      root: int32 scalar, the number of slots before the first beam token.
    """

    visible: jax.Array
    root: jax.Array

    @property
    def width(self) -> int:
        """K."""
        return self.visible.shape[1]

    def positions(self, slots: jax.Array) -> jax.Array:
        """Positions in their sequences of the tokens in these slots: beam tokens of one step share a position."""
        return jnp.where(slots < self.root, slots, self.root + (slots - self.root) // self.width)

    def visible_after_write(self, length: jax.Array) -> jax.Array:
        """bool [B,K,S]: what each beam sees once its next token has been written, `length` slots being used before."""
        slots, beams = jnp.arange(self.visible.shape[2]), jnp.arange(self.width)
        return self.visible | (slots == length + beams[:, None])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """The cache of one layer: of its self attention, and the projected encoder states once they are known."""

    past: KeyValue
    cross: KeyValue | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The cache of a model.

    Attributes:
      layers: one entry per layer. Separate arrays: a stacked cache would be copied at every step of a decode loop.
      valid: bool [B,S], the slots that hold real tokens (False: padding, or not written yet).
      length: int32 scalar, the number of slots written so far (the same for the whole batch; padding counts).
      beams: None, or the slots that each beam sees; the new tokens of a call are then one for each beam, [B,K], and not
        K in a row.
    """

    layers: tuple[LayerCache, ...]
    valid: jax.Array
    length: jax.Array
    beams: BeamSlots | None = None

    @classmethod
    def zeros(
        cls, batch: int, length: int, *, layers: int, heads: int, head_dim: int, dtype: Any, token_major: bool = False
    ) -> Self:
        """An empty cache: shape arithmetic only, no parameters needed. token_major: see `KeyValue`.

        Raises:
          ValueError: batch or length below 1, or a dtype that is neither floating nor int8.
        """
        if batch < 1 or length < 1:
            raise ValueError(f"a cache needs a batch and a length of at least 1, got batch={batch}, length={length}")
        check_cache_dtype(dtype)
        shape = (batch, length, heads, head_dim)
        entries = tuple(LayerCache(KeyValue.zeros(shape, dtype, token_major)) for _ in range(layers))
        return cls(entries, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))

    @property
    def capacity(self) -> int:
        """S, the number of slots."""
        return self.valid.shape[1]

    @property
    def source_length(self) -> int | None:
        """Number of encoder states whose projections are cached; None: none are."""
        cross = self.layers[0].cross
        return None if cross is None else cross.length

    def reserve(self, batch: int, tokens: int, attention_mask: jax.Array | None) -> Self:
        """Makes room for `tokens` new tokens and records which of them are real.

        Args:
          attention_mask: [B,T] for the new tokens, or [B,S] for all slots; None means all real.

        Raises:
          ValueError: another batch size, a mask of another shape, or more tokens than free slots (where `length` is
            concrete; under jit the hidden states become NaN instead, see `overflow`).
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

    def positions(self, tokens: int) -> jax.Array:
        """int32 [T]: the positions of the next `tokens` tokens in their sequences, counted from 0."""
        slots = self.length + jnp.arange(tokens, dtype=jnp.int32)
        return slots if self.beams is None else self.beams.positions(slots)

    def expand(self, width: int) -> Self:
        """A cache for `width` beams of each example, which share what has been written so far."""
        visible = jnp.broadcast_to(self.valid[:, None], (self.valid.shape[0], width, self.capacity))
        return dataclasses.replace(self, beams=BeamSlots(visible, jnp.asarray(self.length, jnp.int32)))

    def reorder(self, parents: jax.Array) -> Self:
        """The next tokens continue these beams, int32 [B,K]: a beam may be continued several times, or not at all."""
        assert self.beams is not None
        visible = jnp.take_along_axis(self.beams.visible, parents[:, :, None], axis=1)
        return dataclasses.replace(self, beams=dataclasses.replace(self.beams, visible=visible))

    def with_source_of(self, other: Self) -> Self:
        """This cache with the projected encoder states of another one."""
        layers = tuple(LayerCache(mine.past, its.cross) for mine, its in zip(self.layers, other.layers, strict=True))
        return dataclasses.replace(self, layers=layers)

    def overflow(self, tokens: int) -> jax.Array:
        """bool scalar: `tokens` more do not fit. A traced overflow must not overwrite the last slots unseen."""
        return self.length + tokens > self.capacity

    def advance(self, layers: tuple[LayerCache, ...], tokens: int) -> Self:
        """The cache after these tokens have been written into its layers."""
        beams = self.beams
        if beams is not None:
            beams = dataclasses.replace(beams, visible=beams.visible_after_write(self.length))
        return dataclasses.replace(self, layers=layers, length=self.length + tokens, beams=beams)
