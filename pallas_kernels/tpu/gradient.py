"""What the backward kernels share: the gradients that one tile of scores gives.

With P = exp2(scores - top), i = 1/sum and delta = sum over the width of do * o (both per query):

    dv = (i do) P'        dP = v'(i do)        dS = P * (dP - i delta)
    dq = ln2 * k dS       dk = ln2 * q dS'     dbias = ln2 * dS

Five products a tile, nothing formed twice. The normalisation is folded into `do`, which is K rows and not a tile. Under
dropout P in the first product and dP in the third keep what the forward pass kept, and `do` carries 1 / (1 - rate).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.tiles import width_by_keys, width_by_queries


@dataclass
class Row:
    """The queries of a row of tiles. mine: their columns. do, delta: times i. dq: the sum so far, without ln2."""

    mine: slice
    q: jax.Array
    do: jax.Array
    top: jax.Array
    delta: jax.Array
    dq: jax.Array | float = 0.0


def row_of(refs, at: tuple, mine: slice, rate: float) -> Row:
    """Reads one. at: what comes before [width, queries] in the refs q, o, do and statistics."""
    q, do = refs["q"][*at, :, mine], refs["do"][*at, :, mine]
    top, inverse = refs["statistics"][*at, :1, mine], refs["statistics"][*at, 1:, mine]
    do_f32 = do.astype(jnp.float32)
    delta = (do_f32 * refs["o"][*at, :, mine].astype(jnp.float32)).sum(axis=0, keepdims=True) * inverse
    do = (do_f32 * (inverse / (1.0 - rate))).astype(do.dtype)
    return Row(mine, q, do, top, delta)


def add_tile(row: Row, k, scores, slopes, keep=None):
    """Adds a tile's part to dq; returns its parts of dk (without ln2) and dv, and dS, all float32. slopes: v'(i do)."""
    weights = jnp.exp2(scores - row.top)
    used = weights
    if keep is not None:
        slopes, used = jnp.where(keep, slopes, 0.0), jnp.where(keep, weights, 0.0)
    ds = weights * (slopes - row.delta)
    narrow = ds.astype(row.q.dtype)
    dv, dk = width_by_keys(row.do, used.astype(row.do.dtype)), width_by_keys(row.q, narrow)
    row.dq = row.dq + width_by_queries(k, narrow)
    return dk, dv, ds
