"""How the kernels of `short` cut their work: all static, all in one place."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.blocks import Tiling
from pallas_kernels.tpu.tiles import LANES, along_queries, hide, keep_tile, keys_by_queries, places


class Operands(NamedTuple):
    """What a call reads; None where it has no such part.

    q: [B,H,K,T] scaled by scale * log2(e). k: [B,H,K,S]. v: [B,H,Kv,S]. T and S are multiples of 128.
    key_bias: float32 [B,1,S], 0 or HIDDEN.
    bias: float32 in units of log2; [B or 1, H or 1, S, T], or the distinct tiles of a Toeplitz one, [H, N, size, size].
    words: uint32 [B*H*3], the dropout's of each head. start: int32 [B], the first query's position among the keys.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array | None
    bias: jax.Array | None
    words: jax.Array | None
    start: jax.Array | None


@dataclass(frozen=True)
class Plan:
    """causal, toeplitz, rate: of the call. heads: per grid step. tiling: how the pass cuts a head."""

    causal: bool
    toeplitz: bool
    rate: float
    heads: int
    tiling: Tiling


class Tile(NamedTuple):
    """The place of a tile: its first key and query and how many there are of each."""

    s0: int
    t0: int
    keys: int
    queries: int


def row_of_tiles(plan: Plan, refs, t0: int) -> list[Tile]:
    """The tiles that the block of queries at t0 meets: under a causal mask none that lies wholly after it."""
    T, S = refs["q"].shape[-1], refs["k"].shape[-1]
    queries = min(plan.tiling.queries, T - t0)
    end = min(S, t0 + queries) if plan.causal and "start" not in refs else S
    return [Tile(s0, t0, min(plan.tiling.keys, end - s0), queries) for s0 in range(0, end, plan.tiling.keys)]


def score_tile(plan: Plan, refs, example, head, q, tile: Tile):
    """float32 [keys, queries]: the scores of one tile with bias and mask, in base 2."""
    scores = keys_by_queries(refs["k"][head, :, tile.s0 : tile.s0 + tile.keys], q)
    if "bias" in refs:
        scores = scores + refs["bias"][bias_block(plan, refs, "bias", head, tile)]
    if "column" in refs:
        scores = scores + along_queries(refs["column"][tile.s0 : tile.s0 + tile.keys], tile.queries)
    if not plan.causal:
        return scores
    if "start" in refs:
        return _not_after(scores, tile.s0, tile.t0 + refs["start"][example])
    strips = [(scores[a : a + LANES], tile.s0 + a) for a in range(0, tile.keys, LANES)]
    # Nothing is compared where all queries come after the strip.
    return jnp.concatenate([_not_after(x, s0, tile.t0) if s0 + LANES > tile.t0 + 1 else x for x, s0 in strips], axis=0)


def _not_after(scores, s0, t0):
    """Hides the keys that come after their query."""
    s, t = places(scores.shape, s0, t0)
    return hide(scores, s <= t)


def bias_block(plan: Plan, refs, name: str, head, tile: Tile):
    """Where a tile's bias (or its gradient, by the ref's name) lies in the block of the grid step."""
    if plan.toeplitz:
        # The first of the distinct tiles is that of the first query and the last block of keys.
        first = -(-refs["k"].shape[-1] // plan.tiling.keys) - 1
        return head, first + (tile.t0 - tile.s0) // plan.tiling.keys, slice(tile.keys), slice(tile.queries)
    keys, queries = slice(tile.s0, tile.s0 + tile.keys), slice(tile.t0, tile.t0 + tile.queries)
    return head if refs[name].shape[0] > 1 else 0, keys, queries


def kept(plan: Plan, refs, at: tuple, tile: Tile):
    """bool [keys, queries]: what dropout leaves of a tile. at: example and head among all of this call."""
    example, head, heads = at
    first = 3 * (example * heads + head)
    words = [refs["words"][first + i] for i in range(3)]
    return keep_tile(words, tile.s0, tile.t0, (tile.keys, tile.queries), plan.rate)
