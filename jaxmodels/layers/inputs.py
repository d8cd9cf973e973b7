"""What the layers of a stack are given beside the hidden states: one value, made once at the top of a model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.layers.cache import Cache
from jaxmodels.layers.rotary import Rotation
from pallas_kernels import DenseBias, Mask, RelativeKeyBias, ToeplitzBias

Bias = DenseBias | RelativeKeyBias | ToeplitzBias

# Added to the scores of hidden keys. Finite, so that a query whose keys are all hidden stays finite (uniform weights,
# as in the reference).
HIDDEN_KEY_BIAS = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerLayer:
    """Values [L, ...] of which each of the L layers of a stack gets its slice."""

    values: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """What an attention module is given beside its hidden states x [B,T,D]. Any array may be a `PerLayer`.

    Attributes:
      mask: which keys each query sees.
      bias: biases of `pallas_kernels` that are added to the scores.
      scale: factor on the scores; None means head_dim**-0.5.
      head_mask: float [H], multiplies each head's probabilities after dropout (reference: docs/parity.md, C6).
      source: [B,S,D'], the encoder's states, for cross attention; None where the cache holds their projections.
      start: int32 scalar, the cache slot of the first query, for self attention with a cache.
      distances: int32, for relative positions where they do not follow from the slots of the cache (beams).
      rotation: of queries and keys by their positions, for self attention; a cache then holds rotated keys.
      return_weights: static; return the attention probabilities too.
    """

    mask: Mask = Mask()
    bias: tuple[Bias, ...] = ()
    scale: float | jax.Array | PerLayer | None = None
    head_mask: jax.Array | PerLayer | None = None
    source: jax.Array | None = None
    start: jax.Array | None = None
    distances: jax.Array | None = None
    rotation: Rotation | None = None
    return_weights: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What a layer hands to its attention and its cross attention; None: this call has no encoder states."""

    attention: AttentionInputs
    cross_attention: AttentionInputs | None = None


def reserve(cache: Cache | None, mask: jax.Array | None, batch: int, length: int) -> Cache | None:
    """The cache with room reserved for `length` new tokens; None stays None.

    Args:
      mask: [B,T] for the new tokens, or [B,S] for all slots, see `Cache.reserve`.

    Raises:
      ValueError: a mask of another shape, a full cache, or a mask or several tokens where the cache holds beams.
    """
    if cache is None:
        return None
    if cache.beams is None:
        if mask is not None and mask.ndim == 3:
            raise ValueError(f"attention_mask has shape {mask.shape}, expected {(batch, length)} with a cache")
        return cache.reserve(batch, length, mask)
    width = cache.beams.width
    if mask is not None or length != width:
        raise ValueError(
            f"each sequence has {width} beams in this cache: pass one token for each, [batch, beams], and no "
            f"attention_mask; got {length} tokens"
        )
    return cache.reserve(batch, length, None)


def self_attention(
    mask: jax.Array | None,
    cache: Cache | None,
    batch: int,
    length: int,
    *,
    causal: bool,
    window: int | None = None,
    segments: jax.Array | None = None,
    base: AttentionInputs = AttentionInputs(),
) -> AttentionInputs:
    """Inputs of a self attention over `length` new tokens, and over those in the cache.

    Args:
      mask: [B,T], 1 for real tokens; with a cache it has gone into `reserve`. [B,T,T] says for every query which keys
        it sees and, as in the reference, nothing but a window is added to it: a causal model is then as causal as it.
      cache: with room reserved for these tokens.
      causal: queries do not see later keys.
      window: how many tokens a query of a causal model sees, its own included; None: all.
      segments: int [B,T], the sequence that each token belongs to where several are packed into a row: a query sees
        the keys of its own.
      base: everything else that the attention is given; biases are added to its own.

    Raises:
      ValueError: a mask of another shape, segments together with a cache, or beams in a model that is not causal.
    """
    if segments is not None and cache is not None:
        raise ValueError("segment_ids are of packed rows without a cache, which holds one sequence for each example")
    if cache is not None and cache.beams is not None:
        if not causal:
            raise ValueError("only a causal model can continue a cache with beams")
        visible = cache.beams.visible_after_write(cache.length)
        if window is not None:  # slots of beams do not lie in the order of the tokens
            positions = cache.beams.positions(jnp.arange(cache.capacity))
            visible = visible & (positions > cache.positions(1) - window)
        bias = (*base.bias, _as_bias(visible))
        return dataclasses.replace(base, mask=Mask(key_valid=cache.valid), bias=bias, start=cache.length)
    span = None if window is None else (window - 1, 0)
    if cache is not None:
        seen = Mask(causal=causal, window=span, key_valid=cache.valid, query_start=cache.length)
        return dataclasses.replace(base, mask=seen, start=cache.length)
    packed: dict[str, Any] = {"window": span, "query_segments": segments, "key_segments": segments}
    if mask is None or mask.shape == (batch, length):
        valid = None if mask is None else mask.astype(bool)
        return dataclasses.replace(base, mask=Mask(causal=causal, key_valid=valid, **packed))
    if mask.shape == (batch, length, length):
        return dataclasses.replace(base, mask=Mask(**packed), bias=(*base.bias, _as_bias(mask)))
    raise ValueError(f"attention_mask has shape {mask.shape}, expected {(batch, length)} or {(batch, length, length)}")


def cross_attention(
    mask: jax.Array | None,
    batch: int,
    length: int,
    keys: int,
    source: jax.Array | None = None,
    base: AttentionInputs = AttentionInputs(),
) -> AttentionInputs:
    """Inputs of a cross attention over `keys` encoder states.

    Args:
      mask: [B,S], 1 for real keys; or [B,T,S], which is added as a bias.
      source: the states [B,S,D], None where the cache holds their projections.
      base: everything else that the attention is given.

    Raises:
      ValueError: a mask of another shape.
    """
    base = dataclasses.replace(base, source=source)
    if mask is None:
        return base
    mask = jnp.asarray(mask)
    if mask.shape == (batch, keys):
        return dataclasses.replace(base, mask=Mask(key_valid=mask.astype(bool)))
    if mask.shape == (batch, length, keys):
        return dataclasses.replace(base, bias=(*base.bias, _as_bias(mask)))
    raise ValueError(
        f"encoder_attention_mask has shape {mask.shape}, expected {(batch, keys)} or {(batch, length, keys)}; "
        f"with a cache pass the mask at every step"
    )


def _as_bias(mask: jax.Array) -> DenseBias:
    return DenseBias(jnp.where(mask.astype(bool), 0.0, HIDDEN_KEY_BIAS)[:, None])
