"""From the masks that callers pass to what the attention function takes."""

import jax
import jax.numpy as jnp

from pallas_kernels import DenseBias, Mask

# Finite, so that a row that masks everything stays finite (uniform weights, as in the reference).
HIDDEN = -1e30


def cross_visibility(mask: jax.Array | None, batch: int, length: int, keys: int) -> dict[str, object]:
    """Keywords of a layer for an encoder mask: [B,S] says which keys are real; [B,T,S] enters as an additive bias."""
    if mask is None:
        return {"cross_mask": Mask()}
    mask = jnp.asarray(mask)
    if mask.shape == (batch, keys):
        return {"cross_mask": Mask(key_valid=mask.astype(bool))}
    if mask.shape == (batch, length, keys):
        return {"cross_mask": Mask(), "cross_bias": DenseBias(jnp.where(mask.astype(bool), 0.0, HIDDEN)[:, None])}
    raise ValueError(
        f"encoder_attention_mask has shape {(batch, keys)} or {(batch, length, keys)}, got {mask.shape}; "
        f"with a cache pass the mask at every step"
    )
