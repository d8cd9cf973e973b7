"""Sampling: PRNG keys, logits warpers and the draw of a token (docs/parity.md, N3).

Reference: transformers/generation/utils.py, `_get_logits_warper`. The values of the warpers are traced, so a different
temperature, k or p does not recompile; only which warpers are enabled is static.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.search import NEG_INF, bucket
from jaxmodels.messages import brief

THREEFRY = "threefry2x32"
# Words of a raw key -> the implementations that have this many, the default first.
_RAW_KEY_IMPLEMENTATIONS = {2: (THREEFRY,), 4: ("rbg", "unsafe_rbg")}


def as_keys(key: Any) -> jax.Array:
    """Converts a key, or a batch of keys, to typed keys.

    Raw keys are uint32 [...,2] or [...,4]. They are taken to be of JAX's default implementation if that has this many
    words, else of threefry or rbg.

    Args:
      key: typed or raw, one key or [B] keys.

    Returns:
      Typed keys, [] or [B].

    Raises:
      TypeError: `key` is not a PRNG key.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if not isinstance(key, jax.Array | np.ndarray) or key.dtype != np.uint32 or not 1 <= key.ndim <= 2:
        raise TypeError(f"key must be jax.random.key(0), or one such key per prompt; got {brief(key)}")
    if key.shape[-1] not in _RAW_KEY_IMPLEMENTATIONS:
        raise TypeError(f"a raw key must have 2 or 4 words, got shape {key.shape}; make one with jax.random.key(0)")
    candidates = _RAW_KEY_IMPLEMENTATIONS[key.shape[-1]]
    default = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]  # jax.config declares no options
    return jax.random.wrap_key_data(jnp.asarray(key), impl=default if default in candidates else candidates[0])


def expand_keys(key: Any, num_prompts: int, copies: int, batch: int) -> jax.Array:
    """Expands the keys of a call to the padded batch of the decoding loop.

    Args:
      key: one key, or one key for each of the `num_prompts` prompts.
      copies: sequences returned per prompt; the copies of a prompt are adjacent in the batch.
      batch: size of the padded batch.

    Returns:
      A single key unchanged, or keys [batch]. Entries that only pad the batch get an arbitrary key.

    Raises:
      TypeError: `key` is not a PRNG key.
      ValueError: neither one key nor one key per prompt.
    """
    key = as_keys(key)
    if key.ndim == 0:
        return key
    if key.shape != (num_prompts,):
        raise ValueError(f"key must be one key or one per prompt ({num_prompts}), got keys of shape {key.shape}")
    index = np.minimum(np.arange(batch), num_prompts * copies - 1)
    return map_keys(jax.random.fold_in, key[index // copies], jnp.asarray(index % copies))


def step_keys(key: jax.Array, batch: int, step: jax.Array) -> jax.Array:
    """Derives one key per sequence and step, so that a draw depends neither on other sequences nor on padding.

    Args:
      key: one key, into which the index of each sequence is folded, or keys [batch] from `expand_keys`.
      step: int32 scalar.

    Returns:
      Keys [batch].
    """
    keys = key if key.ndim else map_keys(jax.random.fold_in, jnp.broadcast_to(key, (batch,)), jnp.arange(batch))
    return map_keys(jax.random.fold_in, keys, jnp.broadcast_to(step, (batch,)))


def map_keys(function: Callable[..., jax.Array], keys: jax.Array, *others: jax.Array) -> jax.Array:
    """Maps function(key, *others) over the leading axis, with the result that each key alone would give."""
    if jax.random.key_impl(keys) == THREEFRY:
        return jax.vmap(function)(keys, *others)
    # Under vmap the hardware generators (rbg) draw the whole batch from the first key.
    return jax.lax.map(lambda each: function(*each), (keys, *others))


class Candidates(NamedTuple):
    """Tokens that may be drawn.

    Attributes:
      scores: float32 [N,C], -inf for tokens that the warpers removed.
      ids: int32 [N,C].
    """

    scores: jax.Array
    ids: jax.Array

    def over_vocabulary(self, size: int) -> jax.Array:
        """Scatters the scores to [N,V]; tokens that are not candidates get -inf."""
        batch = self.ids.shape[0]
        return jnp.full((batch, size), NEG_INF).at[jnp.arange(batch)[:, None], self.ids].set(self.scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Warpers:
    """The enabled logits warpers, applied in the reference's order.

    Attributes:
      temperature, top_k, top_p, min_p, typical_p, epsilon, eta: scalars; None disables the warper.
      num_candidates: static, how many of the most likely tokens are considered: a bucket of at least top_k. None: the
        whole vocabulary. Tokens beyond it are removed even if they tie with the k-th; the reference keeps every tie.
      min_tokens_to_keep: static, tokens that no warper removes: 1, and with beams one more than there are eos ids.
      renormalize: static, apply a log-softmax at the end.
    """

    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    min_p: jax.Array | None = None
    typical_p: jax.Array | None = None
    epsilon: jax.Array | None = None
    eta: jax.Array | None = None
    num_candidates: int | None = dataclasses.field(default=None, metadata={"static": True})
    min_tokens_to_keep: int = dataclasses.field(default=1, metadata={"static": True})
    renormalize: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def from_config(cls, config: GenerationConfig, vocab_size: int) -> Self:
        """The warpers that the options enable."""
        c = config
        keep = 1 if c.num_beams == 1 else max(2, len(c.eos_token_id) + 1)
        limited = 0 < c.top_k < vocab_size

        def enabled(value: float | None, off: float | None) -> jax.Array | None:
            return None if value is None or value == off else jnp.float32(value)

        return cls(
            temperature=enabled(c.temperature, 1.0),
            top_k=jnp.int32(max(c.top_k, keep)) if limited else None,
            top_p=enabled(c.top_p, 1.0),
            min_p=enabled(c.min_p, 0.0),
            typical_p=enabled(c.typical_p, 1.0),
            epsilon=enabled(c.epsilon_cutoff, 0.0),
            eta=enabled(c.eta_cutoff, 0.0),
            num_candidates=min(bucket(max(c.top_k, keep)), vocab_size) if limited else None,
            min_tokens_to_keep=min(keep, vocab_size),
            renormalize=c.renormalize_logits,
        )

    def __call__(self, scores: jax.Array) -> Candidates:
        """Applies the warpers to scores float32 [N,V]."""
        if self.temperature is not None:
            scores = scores / self.temperature
        filters = (self.top_k, self.top_p, self.min_p, self.typical_p, self.epsilon, self.eta)
        if all(value is None for value in filters):
            ids = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
        else:  # sorted by score, descending, from here on
            scores, ids = jax.lax.top_k(scores, self.num_candidates or scores.shape[1])
        always_kept = jnp.arange(scores.shape[1]) < self.min_tokens_to_keep

        def remove(scores: jax.Array, removed: jax.Array) -> jax.Array:
            return jnp.where(removed & ~always_kept, NEG_INF, scores)

        if self.top_k is not None:
            scores = jnp.where(scores < jax.lax.dynamic_index_in_dim(scores, self.top_k - 1, axis=1), NEG_INF, scores)
        if self.top_p is not None:
            probabilities = jax.nn.softmax(scores, axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            scores = remove(scores, before >= self.top_p)
        if self.min_p is not None:
            probabilities = jax.nn.softmax(scores, axis=-1)
            scores = remove(scores, probabilities < self.min_p * probabilities[:, :1])
        if self.typical_p is not None:
            scores = self._typical(scores, self.typical_p)
        if self.epsilon is not None:
            scores = self._cut_below(scores, self.epsilon)
        if self.eta is not None:
            threshold = jnp.minimum(self.eta, jnp.sqrt(self.eta) * jnp.exp(-_entropy(scores)))
            scores = self._cut_below(scores, threshold)
        if self.renormalize:
            scores = jax.nn.log_softmax(scores, axis=-1)
        return Candidates(scores, ids.astype(jnp.int32))

    def sample(self, scores: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one token per sequence; see `search.Sampler`."""
        candidates = self(scores)
        keys = step_keys(key, scores.shape[0], step)
        choice = map_keys(jax.random.categorical, keys, candidates.scores)
        tokens = jnp.take_along_axis(candidates.ids, choice[:, None], axis=1)[:, 0]
        return tokens, candidates.over_vocabulary(scores.shape[-1])

    def _cut_below(self, scores: jax.Array, threshold: jax.Array) -> jax.Array:
        """Removes tokens whose probability is below the threshold."""
        best = jax.lax.top_k(scores, self.min_tokens_to_keep)[0][:, -1:]  # `_typical` may have removed the first ones
        return jnp.where((jax.nn.softmax(scores, axis=-1) < threshold) & (scores < best), NEG_INF, scores)

    def _typical(self, scores: jax.Array, mass: jax.Array) -> jax.Array:
        """Keeps the tokens whose information content is closest to the entropy, up to a mass (arXiv:2202.00666)."""
        log_probs = jax.nn.log_softmax(scores, axis=-1)
        distance = jnp.abs(-log_probs - _entropy(scores))
        order = jnp.argsort(distance, axis=-1)
        cumulative = jnp.cumsum(jnp.take_along_axis(jnp.exp(log_probs), order, axis=-1), axis=-1)
        last = jnp.minimum((cumulative < mass).sum(axis=-1, keepdims=True), scores.shape[1] - 1)
        limit = jnp.take_along_axis(distance, jnp.take_along_axis(order, last, axis=-1), axis=-1)
        rank = jnp.argsort(order, axis=-1)
        return jnp.where((distance > limit) & (rank >= self.min_tokens_to_keep), NEG_INF, scores)


def _entropy(scores: jax.Array) -> jax.Array:
    """Entropy in nats: [N,C] -> [N,1]."""
    log_probs = jax.nn.log_softmax(scores, axis=-1)
    return -jnp.where(log_probs > NEG_INF, jnp.exp(log_probs) * log_probs, 0.0).sum(axis=-1, keepdims=True)
