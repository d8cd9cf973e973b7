"""How the kernels of `band` cut their work: all static, all in one place.

The queries of a grid step are one block. Keys come as views, blocks of the same length around it: `before` of them, the
block itself, and `after`, with their index held inside the sequence, so that keys and values need no padding. What lies
outside is hidden by `key_bias`, which does have these blocks and is a row of every key: the queries have a one there,
so that the product that makes the scores adds it. Places are relative to the first query of the block, so that the
window's edges are static and only the tiles that an edge crosses are compared with it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.dropout import column_words, keep_words, row_words
from pallas_kernels.tpu.blocks import Tiling
from pallas_kernels.tpu.tiles import LANES, along_queries, hide, keep_tile, keys_by_queries, places

# Rows of key_bias: the least that fills a register of bfloat16. The first is the bias, the others are zero.
BIAS_ROWS = 16


class Operands(NamedTuple):
    """What a call reads; None where it has no such part.

    q: [B,H,K,T] scaled by scale * log2(e). k: [B,H,K,T]. v: [B,H,Kv,T]. T is a multiple of the plan's block.
    key_bias: [B,BIAS_ROWS,(before + blocks + after) * block] in q's dtype, 0 or HIDDEN.
    global_at: int32 [B,G], places of the global keys in rising order, inside the sequence.
    global_bias: [B,BIAS_ROWS,G] in q's dtype, 0 or HIDDEN.
    global_column: int32 [B,G,LANES], global_at again on every lane; where the kernel compares or hashes places.
    words: uint32 [B*H*3], the dropout's of each head.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    key_bias: jax.Array
    global_at: jax.Array | None
    global_bias: jax.Array | None
    global_column: jax.Array | None
    words: jax.Array | None


@dataclass(frozen=True)
class Plan:
    """left, right, causal, rate: of the call. block: queries of a grid step and keys of a view. blocks: how many cover
    the sequence. forward, backward: how each pass cuts a block into tiles."""

    left: int
    right: int
    causal: bool
    rate: float
    block: int
    blocks: int
    forward: Tiling
    backward: Tiling

    @property
    def before(self) -> int:
        return min(-(-self.left // self.block), self.blocks - 1)

    @property
    def after(self) -> int:
        return min(-(-self.right // self.block), self.blocks - 1)

    @property
    def views(self) -> range:
        """Blocks of keys in sight, relative to the block of queries."""
        return range(-self.before, self.after + 1)


class Tile(NamedTuple):
    """The place of a tile: its first key and query, relative to the block, and how many there are of each."""

    s0: int
    t0: int
    keys: int
    queries: int


class Part(NamedTuple):
    """Those keys of a tile that lie in one view: where in the view, and where in the tile."""

    view: int
    there: slice
    here: slice


def rows_of_tiles(plan: Plan, sides: Tiling) -> list[list[Tile]]:
    """For each part of the block's queries the tiles that cover their window, in whole registers."""
    rows = []
    for t0 in range(0, plan.block, sides.queries):
        queries = min(sides.queries, plan.block - t0)
        first = max((t0 - plan.left) // LANES * LANES, -plan.before * plan.block)
        end = min(-(-(t0 + queries + plan.right) // LANES) * LANES, (1 + plan.after) * plan.block)
        rows.append([Tile(s0, t0, min(sides.keys, end - s0), queries) for s0 in range(first, end, sides.keys)])
    return rows


def parts(plan: Plan, tile: Tile) -> list[Part]:
    """A tile's keys, view by view."""
    found = []
    for view in plan.views:
        start = view * plan.block
        first, end = max(tile.s0, start), min(tile.s0 + tile.keys, start + plan.block)
        if first < end:
            found.append(Part(view, slice(first - start, end - start), slice(first - tile.s0, end - tile.s0)))
    return found


class Step(NamedTuple):
    """One step of the grid. block: which block of queries. head: which of all examples' heads. (Asked for once, in the
    kernel itself: JAX's plain interpreter of kernels cannot tell inside a branch.)"""

    plan: Plan
    refs: dict
    block: jax.Array
    head: jax.Array

    @property
    def first_query(self):
        """The place of the block's first query in the sequence."""
        return self.block * self.plan.block


def this_step(plan: Plan, refs) -> Step:
    return Step(plan, refs, pl.program_id(2), pl.program_id(1) * pl.num_programs(0) + pl.program_id(0))


def in_view(name: str, view: int) -> str:
    """What a ref of one view is called."""
    return f"{name}{view:+d}"


def keys_of(step: Step, name: str, tile: Tile):
    """[width, keys]: the columns of a tile, out of the views of an operand."""
    return jnp.concatenate([step.refs[in_view(name, p.view)][:, p.there] for p in parts(step.plan, tile)], axis=1)


def with_ones(q):
    """The queries with the rows that meet those of a bias."""
    return jnp.concatenate([q, jnp.ones((BIAS_ROWS, q.shape[1]), q.dtype)], axis=0)


def score_tile(step: Step, q, tile: Tile):
    """float32 [keys, queries]: the scores of one tile with bias and mask, in base 2. q: `with_ones`."""
    plan = step.plan
    start = pl.multiple_of(step.first_query + (plan.before * plan.block + tile.s0), LANES)
    bias = step.refs["key_bias"][:, pl.ds(start, tile.keys)]
    scores = keys_by_queries(jnp.concatenate([keys_of(step, "k", tile), bias], axis=0), q)
    strips = [
        _inside(plan, scores[a : a + LANES], tile.s0 + a, tile.t0, tile.queries) for a in range(0, tile.keys, LANES)
    ]
    return jnp.concatenate(strips, axis=0)


def _inside(plan: Plan, strip, s0: int, t0: int, queries: int):
    """Hides what lies outside the window; nothing is compared where all queries see all keys of the strip."""
    s, t = places(strip.shape, s0, t0)
    if s0 < t0 + queries - 1 - plan.left:
        strip = hide(strip, s >= t - plan.left)
    if s0 + LANES - 1 > t0 + plan.right:
        strip = hide(strip, s <= t + plan.right)
    return strip


def global_tile(step: Step, q, t0: int):
    """float32 [G, queries]: the scores of the global keys."""
    refs = step.refs
    scores = keys_by_queries(jnp.concatenate([refs["global_k"][...], refs["global_bias"][...]], axis=0), q)
    if step.plan.causal:
        _, t = places(scores.shape, 0, step.first_query + t0)
        scores = hide(scores, along_queries(refs["global_column"][...], scores.shape[1]) <= t)
    return scores


def kept(step: Step, tile: Tile):
    """bool [keys, queries]: what dropout leaves of a tile."""
    start, shape = step.first_query, (tile.keys, tile.queries)
    return keep_tile(_words(step), start + tile.s0, start + tile.t0, shape, step.plan.rate)


def globals_kept(step: Step, t0: int, queries: int):
    """bool [G, queries]: what dropout leaves of the global keys."""
    head, *seed = _words(step)
    t = step.first_query + t0 + jax.lax.broadcasted_iota(jnp.int32, (1, queries), 1)
    first, second = row_words(head, seed, t.astype(jnp.uint32))
    columns = column_words(along_queries(step.refs["global_column"][...], queries).astype(jnp.uint32))
    return keep_words(first, second, columns, step.plan.rate)


def _words(step: Step):
    """The three words of this head."""
    return [step.refs["words"][3 * step.head + i] for i in range(3)]
