"""What sampling draws from: the scores, warped in the reference's order, and the draw.

Reference: transformers/generation/utils.py, `_get_logits_warper` (docs/parity.md, N3). The numbers are traced, so that
another temperature, k or p compiles nothing; only whether a warper is on is static.
"""

import dataclasses
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.keys import for_rows, row_keys

OUT = -jnp.inf


class Candidates(NamedTuple):
    """Tokens that may be drawn: their scores [N,C], -inf for those that may not, and ids int32 [N,C]."""

    scores: jax.Array
    ids: jax.Array

    def over_vocabulary(self, size: int) -> jax.Array:
        """The scores as [N,V], -inf for all others."""
        rows = jnp.arange(self.ids.shape[0])[:, None]
        return jnp.full((self.ids.shape[0], size), OUT).at[rows, self.ids].set(self.scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Warpers:
    """The warpers that are on.

    Attributes:
      temperature, top_k, top_p, min_p, typical_p, epsilon, eta: scalars; None where the warper is off.
      looked_at: how many of the likeliest tokens are looked at; None: the whole vocabulary. A bucket at or above top_k.
        Tokens beyond it are out even if they tie with the k-th, where the reference keeps every tie.
      keep: tokens that no warper removes: 1, and with beams one more than there are eos ids.
      renormalize: end with a log-softmax.
    """

    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    min_p: jax.Array | None = None
    typical_p: jax.Array | None = None
    epsilon: jax.Array | None = None
    eta: jax.Array | None = None
    looked_at: int | None = dataclasses.field(default=None, metadata={"static": True})
    keep: int = dataclasses.field(default=1, metadata={"static": True})
    renormalize: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def of(cls, config: GenerationConfig, vocabulary: int) -> Self:
        c = config
        keep = 1 if c.num_beams == 1 else max(2, len(c.eos_token_id) + 1)
        limited = 0 < c.top_k < vocabulary

        def on(value: float | None, off: float | None) -> jax.Array | None:
            return None if value is None or value == off else jnp.float32(value)

        return cls(
            temperature=on(c.temperature, 1.0),
            top_k=jnp.int32(max(c.top_k, keep)) if limited else None,
            top_p=on(c.top_p, 1.0),
            min_p=on(c.min_p, 0.0),
            typical_p=on(c.typical_p, 1.0),
            epsilon=on(c.epsilon_cutoff, 0.0),
            eta=on(c.eta_cutoff, 0.0),
            looked_at=min(bucket(max(c.top_k, keep)), vocabulary) if limited else None,
            keep=min(keep, vocabulary),
            renormalize=c.renormalize_logits,
        )

    def __call__(self, scores: jax.Array) -> Candidates:
        """scores float32 [N,V]."""
        if self.temperature is not None:
            scores = scores / self.temperature
        order = (self.top_k, self.top_p, self.min_p, self.typical_p, self.epsilon, self.eta)
        if all(warper is None for warper in order):
            ids = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
        else:  # likeliest first, from here on
            scores, ids = jax.lax.top_k(scores, self.looked_at or scores.shape[1])
        kept_anyway = jnp.arange(scores.shape[1]) < self.keep

        def without(scores: jax.Array, removed: jax.Array) -> jax.Array:
            return jnp.where(removed & ~kept_anyway, OUT, scores)

        if self.top_k is not None:
            scores = jnp.where(scores < jax.lax.dynamic_index_in_dim(scores, self.top_k - 1, axis=1), OUT, scores)
        if self.top_p is not None:
            probabilities = jax.nn.softmax(scores, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            scores = without(scores, before >= self.top_p)
        if self.min_p is not None:
            probabilities = jax.nn.softmax(scores, axis=-1)
            scores = without(scores, probabilities < self.min_p * probabilities[:, :1])
        if self.typical_p is not None:
            scores = self._typical(scores, self.typical_p)
        if self.epsilon is not None:
            scores = self._likely(scores, self.epsilon)
        if self.eta is not None:
            least = jnp.minimum(self.eta, jnp.sqrt(self.eta) * jnp.exp(-_entropy(scores)))
            scores = self._likely(scores, least)
        if self.renormalize:
            scores = jax.nn.log_softmax(scores, axis=-1)
        return Candidates(scores, ids.astype(jnp.int32))

    def _likely(self, scores: jax.Array, least: jax.Array) -> jax.Array:
        """Keeps what has a probability of at least that."""
        best = jax.lax.top_k(scores, self.keep)[0][:, -1:]  # no longer the first ones, after `_typical`
        return jnp.where((jax.nn.softmax(scores, axis=-1) < least) & (scores < best), OUT, scores)

    def _typical(self, scores: jax.Array, most: jax.Array) -> jax.Array:
        """Keeps the tokens whose surprise is nearest to the entropy, up to a mass (arXiv:2202.00666)."""
        logs = jax.nn.log_softmax(scores, axis=-1)
        distance = jnp.abs(-logs - _entropy(scores))
        order = jnp.argsort(distance, axis=-1)
        mass = jnp.cumsum(jnp.take_along_axis(jnp.exp(logs), order, axis=-1), axis=-1)
        last = jnp.minimum((mass < most).sum(axis=-1, keepdims=True), scores.shape[1] - 1)
        limit = jnp.take_along_axis(distance, jnp.take_along_axis(order, last, axis=-1), axis=-1)
        rank = jnp.argsort(order, axis=-1)
        return jnp.where((distance > limit) & (rank >= self.keep), OUT, scores)


def _entropy(scores: jax.Array) -> jax.Array:
    """[N,C] -> [N,1], in nats."""
    logs = jax.nn.log_softmax(scores, axis=-1)
    return -jnp.where(logs > OUT, jnp.exp(logs) * logs, 0.0).sum(axis=-1, keepdims=True)


def draw(candidates: Candidates, key: jax.Array, step: jax.Array) -> jax.Array:
    """One id for each row, int32 [N]."""
    keys = row_keys(key, candidates.ids.shape[0], step)
    choice = for_rows(jax.random.categorical, keys, candidates.scores)
    return jnp.take_along_axis(candidates.ids, choice[:, None], axis=1)[:, 0]
