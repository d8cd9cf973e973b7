"""The probabilities of windowed attention in the form of their band: for who asks to see them."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from pallas_kernels.blocked import BLOCK, gather_globals
from pallas_kernels.dropout import Dropout, drop, seed_and_rate
from pallas_kernels.mask import Mask
from pallas_kernels.reference import scores, softmax, swapped


def band_weights(q, k, *, mask: Mask, scale=None, dropout: Dropout | None = None, block: int = BLOCK) -> jax.Array:
    """The weights of `attention(q, k, ..., mask=mask)` under a symmetric window, [B, H, T, G+2w+1] in q.dtype.

    The first G columns are the global keys in the order of `mask.global_at` (G = 0 without); column G+c is the key at
    t - w + c, zero where there is none, where it is padding and where it is global (it has a column already). Holds a
    block of rows at a time besides the result, so the memory grows with T, not with T * T.

    Args:
      q, k: [B, T, H, K].
      mask: with a window (w, w), not causal, without query_start; global keys as `global_at`.
      scale, dropout: as in `attention`.
      block: rows that are held at a time.

    Raises:
      ValueError: another mask.
    """
    (B, T, H, K), S = q.shape, k.shape[1]
    wanted = mask.window is not None and mask.window[0] == mask.window[1] and not mask.causal
    if not wanted or mask.query_start is not None or (mask.key_global is None) != (mask.global_at is None) or T != S:
        raise ValueError("band_weights takes a symmetric window over as many keys as queries, and globals as global_at")
    mask.check(B, S)
    w, scale = mask.window[0], K**-0.5 if scale is None else scale
    block = min(block, T)
    reach = min(S, 2 * w + block)
    extra = None if mask.global_at is None else gather_globals(k, k, mask)
    local = mask.key_valid
    if mask.key_global is not None:
        local = ~mask.key_global if local is None else local & ~mask.key_global
    windowed = replace(mask, key_valid=local, key_global=None, global_at=None)
    seed, rate = seed_and_rate(dropout)

    def rows(t0):
        queries = jax.lax.dynamic_slice_in_dim(q, t0, block, axis=1)
        s0 = jnp.clip(t0 - w, 0, S - reach)
        keys = jax.lax.dynamic_slice_in_dim(k, s0, reach, axis=1)
        visible = windowed.block(t0, s0, reach).dense(B, block, reach)
        visible = jnp.broadcast_to(visible, (B, 1, block, reach))
        positions = jnp.broadcast_to(s0 + jnp.arange(reach, dtype=jnp.int32), (B, reach))
        if extra is not None:
            keys = jnp.concatenate([extra.k, keys], axis=1)
            everywhere = jnp.broadcast_to(extra.valid[:, None, None], (B, 1, block, extra.valid.shape[1]))
            visible = jnp.concatenate([everywhere, visible], axis=-1)
            positions = jnp.concatenate([extra.positions, positions], axis=1)
        weights = softmax(scores(swapped(queries), swapped(keys), (), scale, 0), visible)
        if seed is not None:
            weights = drop(weights, seed, rate, t0 + jnp.arange(block), positions)
        count = keys.shape[1] - reach
        # Column c of row t is the key at t - w + c.
        place = t0 + jnp.arange(block)[:, None] - w + jnp.arange(2 * w + 1) - s0
        band = jnp.take_along_axis(weights[..., count:], jnp.clip(place, 0, reach - 1)[None, None], axis=-1)
        band = jnp.where((place >= 0) & (place < reach), band, 0)
        return jnp.concatenate([weights[..., :count], band], axis=-1).astype(q.dtype)

    # The last block ends with the last row; rows that two blocks share are the same in both.
    starts = jnp.minimum(jnp.arange(0, T, block), T - block)
    out = jax.lax.map(rows, starts)  # [blocks, B, H, block, columns]
    out = out.transpose(1, 2, 0, 3, 4)
    whole = (T // block) * block
    first = out[:, :, : whole // block].reshape(B, H, whole, -1)
    return jnp.concatenate([first, out[:, :, -1, block - (T - whole) :]], axis=2) if whole < T else first
