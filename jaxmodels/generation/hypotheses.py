"""The best finished hypotheses of a beam search.

Reference: transformers/generation/beam_search.py, `BeamHypotheses`.
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

EMPTY = -1
LOWEST = float(jnp.finfo(jnp.float32).min)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """S hypotheses for each of M searches.

    Attributes:
      scores: float32 [M,S], divided by the length penalty.
      lengths: int32 [M,S], generated tokens with the eos id, if one ends them; EMPTY where there is no hypothesis.
      ids: int32 [M,S,room], the generated tokens, and anything beyond.
      paths: int32 [M,S,room], the row that each token was picked from; -1 beyond.
    """

    scores: jax.Array
    lengths: jax.Array
    ids: jax.Array
    paths: jax.Array

    @classmethod
    def none(cls, searches: int, size: int, room: int) -> Self:
        array = jnp.full((searches, size, room), EMPTY, jnp.int32)
        return cls(jnp.full((searches, size), LOWEST), array[:, :, 0], array, array)

    @property
    def full(self) -> jax.Array:
        """bool [M]: a worse hypothesis than all of these no longer counts."""
        return jnp.all(self.lengths != EMPTY, axis=1)

    @property
    def worst(self) -> jax.Array:
        """float32 [M]; of a full set."""
        return self.scores.min(axis=1)

    def best_of(self, other: Self) -> Self:
        """The best S of these and others."""
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, other)
        # An impossible hypothesis (-inf) is still one: it comes before an empty place.
        rank = jnp.where(both.lengths == EMPTY, -jnp.inf, jnp.maximum(both.scores, LOWEST))
        _, index = jax.lax.top_k(rank, self.scores.shape[1])
        return jax.tree.map(lambda a: jnp.take_along_axis(a, _like(index, a), axis=1), both)

    def where(self, chosen: jax.Array, other: Self) -> Self:
        """These in the searches [M] that are chosen, the others elsewhere."""
        return jax.tree.map(lambda a, b: jnp.where(_like(chosen, a), a, b), self, other)


def _like(index: jax.Array, array: jax.Array) -> jax.Array:
    return index.reshape(*index.shape, *(1,) * (array.ndim - index.ndim))
