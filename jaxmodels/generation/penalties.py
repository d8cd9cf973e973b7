"""Processors that look for tokens in what was written or read.

Each is a pytree whose numbers are traced, called with (text, scores float32 [N,V]) -> scores.
Reference: transformers/generation/logits_process.py (docs/parity.md, N4).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxmodels.generation.text import Text

BANNED = -jnp.inf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Repetition:
    """Scores of tokens in the text are divided by a penalty, or multiplied where negative (arXiv:1909.05858)."""

    penalty: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return _penalised(scores, jnp.where(text.written, text.ids, scores.shape[1]), self.penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SourceRepetition:
    """The opposite for tokens of the source, int32 [B,S] with -1 where there is none: a penalty above 1 favours them.

    With beams the reference penalises the first rows only; here every beam has its own source.
    """

    penalty: jax.Array
    source: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        source = _for_rows(self.source, scores.shape[0])
        return _penalised(scores, jnp.where(source >= 0, source, scores.shape[1]), 1.0 / self.penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoRepeatedNgrams:
    """No n-gram of the text comes twice. size: int32 scalar."""

    size: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        ids = jnp.where(text.written, text.ids, -1)
        return _without(scores, ids, _completes(ids, text, self.size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoSourceNgrams:
    """No n-gram of the source, int32 [B,S] with -1 where there is none, comes in the text. size: int32 scalar."""

    size: jax.Array
    source: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        source = _for_rows(self.source, scores.shape[0])
        return _without(scores, source, _completes(source, text, self.size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diversity:
    """Tokens that earlier beam groups chose in this step lose `penalty` for each time (arXiv:1610.02424)."""

    penalty: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        if text.earlier is None:
            return scores
        return scores.at[_row_numbers(scores), text.earlier].add(-self.penalty)


def _penalised(scores, ids, penalty):
    """ids [N,L]; V stands for no token."""
    found = jnp.take_along_axis(scores, ids, axis=1, mode="clip")
    found = jnp.where(found < 0, found * penalty, found / penalty)
    return scores.at[_row_numbers(scores), ids].set(found, mode="drop")


def _completes(ids, text: Text, size):
    """bool [N,M]: the size-1 tokens before this one of ids [N,M] are the last of the text, so it would complete an
    n-gram that is there. -1 is no token."""

    def same(back, agrees):
        column = jnp.maximum(text.end - back, 0)
        mine = jax.lax.dynamic_slice_in_dim(text.ids, column, 1, axis=1)
        before = jnp.where(jnp.arange(ids.shape[1]) >= back, jnp.roll(ids, back, axis=1), -1)
        return agrees & (before == mine)

    agrees = jax.lax.fori_loop(1, size, same, ids >= 0)
    return agrees & (text.count >= size - 1)


def _without(scores, ids, banned):
    return scores.at[_row_numbers(scores), jnp.where(banned, ids, scores.shape[1])].set(BANNED, mode="drop")


def _row_numbers(scores):
    return jnp.arange(scores.shape[0])[:, None]


def _for_rows(source, rows: int):
    """A source for each row, where several rows in succession have the same."""
    return jnp.repeat(source, rows // source.shape[0], axis=0)
