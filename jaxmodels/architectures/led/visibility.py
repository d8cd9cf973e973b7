"""From LED's two masks to what the attention takes: which tokens are real, and where the global ones are."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import check_shape, is_concrete
from pallas_kernels import Mask


@dataclass(frozen=True)
class Visibility:
    """The same for every layer.

    Attributes:
      valid: bool [B,S], or None where all tokens are real.
      is_global: bool [B,S], and at: int32 [B,G], S in slots without a token; both None where there are none.
      surplus: bool [B], examples with more global tokens than slots; None where that is known not to be.
    """

    valid: jax.Array | None = None
    is_global: jax.Array | None = None
    at: jax.Array | None = None
    surplus: jax.Array | None = None

    def mask(self, window: int) -> Mask:
        """What a layer with that window sees."""
        half = window // 2
        return Mask(window=(half, half), key_valid=self.valid, key_global=self.is_global, global_at=self.at)


def visibility(attention_mask, global_attention_mask, batch: int, length: int, slots: int | None) -> Visibility:
    """Merges the masks (docs/parity.md, L3).

    Args:
      attention_mask: [B,S], 1 for real tokens.
      global_attention_mask: [B,S], 1 for global tokens; -1, with which the tokenizer pads, marks padding too.
      slots: G, how many global tokens an example may have; None: as many as the mask has, which must be concrete.

    Raises:
      ValueError: a wrong shape, other values, more global tokens than slots, or a traced mask without `slots`.
    """
    valid = None
    if attention_mask is not None:
        valid = check_shape("attention_mask", attention_mask, (batch, length)).astype(bool)
    if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 0):
        raise ValueError(f"max_global_tokens is a number of tokens, or None, got {slots!r}")
    if global_attention_mask is None:
        return Visibility(valid)
    shape = np.shape(global_attention_mask)
    if shape != (batch, length):
        raise ValueError(f"global_attention_mask has the shape of input_ids, {(batch, length)}; got {shape}")
    if is_concrete(global_attention_mask):
        check_flags(np.asarray(global_attention_mask))
    flags = jnp.asarray(global_attention_mask)
    real = flags >= 0
    valid = real if valid is None else valid & real
    is_global = (flags == 1) & valid
    if is_concrete(global_attention_mask, *([] if attention_mask is None else [attention_mask])):
        here = np.asarray(global_attention_mask) == 1
        if attention_mask is not None:
            here &= np.asarray(attention_mask).astype(bool)
        most = int(here.sum(axis=1).max())
        check_slots(most, slots)
        slots, surplus = most if slots is None else slots, None
    elif slots is None:
        raise ValueError(
            "under jit the number of global tokens has to be known: give max_global_tokens, in the call or to the model"
        )
    else:
        surplus = is_global.sum(axis=1) > slots
    if slots == 0:
        return Visibility(valid, surplus=surplus)
    slots = min(slots, length)
    # The n-th global token goes to slot n; whatever comes after the last slot is dropped.
    slot = jnp.where(is_global, jnp.cumsum(is_global, axis=1) - 1, slots)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    at = jnp.full((batch, slots), length, jnp.int32).at[jnp.arange(batch)[:, None], slot].set(positions, mode="drop")
    return Visibility(valid, is_global, at, surplus)


def check_flags(mask: np.ndarray) -> None:
    """Raises ValueError where a global_attention_mask is not [B,S] or holds something else than -1, 0 and 1."""
    if mask.ndim != 2:
        raise ValueError(f"global_attention_mask has the shape of input_ids, [B,S]; got {mask.shape}")
    known = np.isin(mask, (-1, 0, 1))
    if not known.all():
        raise ValueError(f"global_attention_mask holds 0 and 1 (and -1 for padding), got {mask[~known][0]}")


def check_slots(most: int, slots: int | None) -> None:
    """Raises ValueError where an example has more global tokens than slots (None: as many as it takes)."""
    if slots is not None and most > slots:
        raise ValueError(f"an example has {most} global tokens, and max_global_tokens={slots}; raise it")
