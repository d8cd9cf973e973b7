"""Encode texts in buckets of similar length, and search exactly by inner product in blocks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxmodels as jm
from jaxmodels.sharding import Rules
from jaxmodels.training import place

from ..data.pairs import Tokens

BUCKET = 16  # sequence lengths are rounded up to multiples of this; each length is compiled once


def encode(
    vectors: Callable[[dict], jax.Array], tokens: Tokens, *, batch_size: int, mesh: Mesh, rules: Rules
) -> np.ndarray:
    """Encode texts to float32 [N,D], in all processes.

    Args:
      vectors: Encodes a batch on the mesh to [batch_size,D], replicated on all devices.
      tokens: The texts.
      batch_size: Number of texts per batch. They are sorted by length, to reduce padding.
      mesh: Device mesh.
      rules: Sharding rules.
    """
    rows = jm.sharding.addressable_rows(mesh, rules, batch_size)
    out: np.ndarray | None = None
    for indices, width in jm.length_batches(tokens.lengths, batch_size, multiple=BUCKET):
        full = np.resize(indices, batch_size)  # pads the last batch by repeating its texts
        local = tokens.take(full[rows], width)
        found = np.asarray(vectors(place(local, mesh, rules, size=batch_size)), np.float32)
        if out is None:
            out = np.empty((len(tokens.lengths), found.shape[1]), np.float32)
        out[indices] = found[: len(indices)]
    assert out is not None, "there are no texts"
    return out


def search(queries: np.ndarray, passages: np.ndarray, k: int, block: int = 65_536) -> np.ndarray:
    """Return the indices of the k passages (or all, if fewer) with the largest inner products, best first, int [Q,k].

    Args:
      queries: float32 [Q,D].
      passages: float32 [N,D].
      k: Number of passages to return.
      block: Number of passages whose scores are computed together, for 256 queries at a time.
    """
    k = min(k, len(passages))
    found = np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), 256):
        batch = queries[first : first + 256]
        scores, indices = np.empty((len(batch), 0), np.float32), np.empty((len(batch), 0), np.int64)
        for start in range(0, len(passages), block):
            part = passages[start : start + block]
            new_scores, new = _best(batch, part, min(k, len(part)))
            scores = np.concatenate([scores, new_scores], axis=1)
            indices = np.concatenate([indices, np.asarray(new) + start], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, indices = np.take_along_axis(scores, best, 1), np.take_along_axis(indices, best, 1)
        found[first : first + 256] = indices
    return found


@partial(jax.jit, static_argnums=2)
def _best(queries: jax.Array, passages: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(jnp.matmul(queries, passages.T, precision=jax.lax.Precision.HIGHEST), k)
