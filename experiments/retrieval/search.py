"""Encoding texts in buckets of their length, and exact search by inner product in blocks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxmodels as jm
from experiments.data.pairs import Tokens
from jaxmodels.sharding import Rules
from jaxmodels.training import place

BUCKET = 16  # lengths are rounded up to multiples of this, and each is compiled once


def encode(vectors: Callable[[dict], jax.Array], tokens: Tokens, *, rows: int, mesh: Mesh, rules: Rules) -> np.ndarray:
    """The vector of every text, float32 [N,D], in all processes.

    Args:
      vectors: a batch on the mesh -> [rows,D], whole on every device.
      rows: texts at a time. They are taken in the order of their lengths, so that little is padding.
    """
    share, process = rows // jax.process_count(), jax.process_index()
    out = None
    for chosen, width in jm.length_batches(tokens.lengths, rows, multiple=BUCKET):
        full = np.resize(chosen, rows)  # the last batch is filled up with its own rows
        mine = tokens.rows(full[process * share : (process + 1) * share], width)
        found = np.asarray(vectors(place(mine, mesh, rules)), np.float32)
        out = np.empty((len(tokens.lengths), found.shape[1]), np.float32) if out is None else out
        out[chosen] = found[: len(chosen)]
    return out


def search(queries: np.ndarray, passages: np.ndarray, k: int, block: int = 65_536) -> np.ndarray:
    """Places of the k passages with the largest inner products, best first, int [Q,k]; of all if they are fewer.

    Args:
      queries: float32 [Q,D]; passages: float32 [N,D].
      block: so many scores' rows of passages are looked at together, for 256 queries at a time.
    """
    k = min(k, len(passages))
    found = np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), 256):
        some = queries[first : first + 256]
        scores, places = np.empty((len(some), 0), np.float32), np.empty((len(some), 0), np.int64)
        for start in range(0, len(passages), block):
            part = passages[start : start + block]
            new_scores, new = _best(some, part, min(k, len(part)))
            scores = np.concatenate([scores, new_scores], axis=1)
            places = np.concatenate([places, np.asarray(new) + start], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
        found[first : first + 256] = places
    return found


@partial(jax.jit, static_argnums=2)
def _best(queries: jax.Array, passages: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(jnp.matmul(queries, passages.T, precision=jax.lax.Precision.HIGHEST), k)
