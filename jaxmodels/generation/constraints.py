"""Processors that say what may come, must come or should come; see `penalties` for what a processor is.

Reference: transformers/generation/logits_process.py (docs/parity.md, N4).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation import callbacks
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.text import Text

ANY = -1  # matches every token
ALWAYS = -1  # at every length
FORBIDDEN = -jnp.inf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceBias:
    """Added to the score of a token that would complete a sequence.

    Attributes:
      before: int32 [S,M], what each sequence has before its last token, ANY in front of shorter ones.
      last: int32 [S]. bias: float32 [S]; both are 0 in rows that only fill the bucket.
      lengths: int32 [S], tokens of each sequence; as in the reference, it says nothing in a text that is shorter.
    """

    before: jax.Array
    last: jax.Array
    bias: jax.Array
    lengths: jax.Array

    @classmethod
    def of(cls, biases: Mapping[tuple[int, ...], float]) -> Self:
        rows = bucket(len(biases), smallest=4)
        width = bucket(max(map(len, biases)), smallest=4) - 1
        before = np.full((rows, width), ANY, np.int32)
        last, lengths, bias = np.zeros(rows, np.int32), np.zeros(rows, np.int32), np.zeros(rows, np.float32)
        for row, (sequence, value) in enumerate(biases.items()):
            *head, last[row] = sequence
            before[row, width - len(head) :] = head
            lengths[row], bias[row] = len(sequence), value
        return cls(*map(jnp.asarray, (before, last, bias, lengths)))

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        tail = text.last(self.before.shape[1])[:, None]
        matches = ((self.before == tail) | (self.before == ANY)).all(axis=-1) & (self.lengths <= text.count)
        added = jnp.where(matches, self.bias, 0.0)
        rows = jnp.arange(scores.shape[0])[:, None]
        return scores + jnp.zeros_like(scores).at[rows, jnp.broadcast_to(self.last, added.shape)].add(added)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoEarlyEnd:
    """No eos id before the text has `count` tokens. eos: int32 [E]."""

    count: jax.Array
    eos: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jnp.where(text.count < self.count, scores.at[:, self.eos].set(FORBIDDEN), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Forced:
    """At a length of counts[i] the next token is tokens[i], or one of those with the same count; its score is 0.

    Attributes:
      counts, tokens: int32 [M].
    """

    counts: jax.Array
    tokens: jax.Array

    @classmethod
    def of(cls, counts: Sequence[int], tokens: Sequence[int]) -> Self:
        # No text has -2 tokens: these entries fill the bucket.
        fill = (0, bucket(len(counts), smallest=1) - len(counts))
        return cls(*(jnp.asarray(np.pad(np.asarray(a, np.int32), fill, constant_values=-2)) for a in (counts, tokens)))

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        now = self.counts == text.count
        allowed = (
            jnp.full(scores.shape[1], FORBIDDEN).at[jnp.where(now, self.tokens, scores.shape[1])].set(0.0, mode="drop")
        )
        return jnp.where(now.any(), allowed, scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Suppressed:
    """These tokens do not come: at a length of `count`, or ALWAYS. tokens: int32 [M], V for none."""

    tokens: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, tokens: Sequence[int], vocabulary: int, count: int = ALWAYS) -> Self:
        fill = (0, bucket(len(tokens), smallest=4) - len(tokens))
        return cls(
            jnp.asarray(np.pad(np.asarray(tokens, np.int32), fill, constant_values=vocabulary)), jnp.int32(count)
        )

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        now = (self.count == ALWAYS) | (text.count == self.count)
        return jnp.where(now, scores.at[:, self.tokens].set(FORBIDDEN, mode="drop"), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExponentialDecay:
    """Beyond `start` tokens the eos ids gain: |score| * (factor ** (tokens beyond) - 1).

    Eos ids that another processor has forbidden stay so; in the reference their score becomes NaN.
    """

    start: jax.Array
    factor: jax.Array
    eos: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        beyond = text.count - self.start
        grown = self.factor ** jnp.maximum(beyond, 0).astype(jnp.float32) - 1
        mine = scores[:, self.eos]
        gain = jnp.where(jnp.isfinite(mine), jnp.abs(mine) * grown, 0.0)
        return jnp.where(beyond > 0, scores.at[:, self.eos].set(mine + gain), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RemoveInvalid:
    """NaN becomes 0, an infinity the largest or smallest number."""

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jnp.nan_to_num(scores, nan=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Renormalise:
    """Log-softmax over the vocabulary."""

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(scores, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Allowed:
    """The caller's function on the host says what may come (reference: `prefix_allowed_tokens_fn`).

    Attributes:
      number: of the function in `callbacks`.
      examples: int32 scalar, how many are real; the rest fill the bucket.
      per_example: static, rows of an example.
    """

    number: jax.Array
    examples: jax.Array
    per_example: int = dataclasses.field(metadata={"static": True})

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        ask = partial(callbacks.allowed_tokens, per_example=self.per_example, vocabulary=scores.shape[1])
        kind = jax.ShapeDtypeStruct(scores.shape, np.bool_)
        allowed = jax.pure_callback(ask, kind, self.number, self.examples, text.ids, text.start, text.end)
        return jnp.where(allowed, scores, FORBIDDEN)
