"""Beam search: the likeliest whole texts (docs/parity.md, N5, N6).

Reference: transformers/generation/beam_search.py, `BeamSearchScorer`, and utils.py, `beam_search`, `beam_sample`,
`group_beam_search`. The beams of an example are branches over shared slots of the cache (`layers.cache.Branches`).
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.generation.hypotheses import EMPTY, Hypotheses
from jaxmodels.generation.keys import for_rows, row_keys
from jaxmodels.generation.search import Choice, Progress, Terms
from jaxmodels.generation.text import Text
from jaxmodels.generation.warpers import Candidates, Warpers

UNLIKELY = -1e9  # the score of the copies of a prompt with which a search begins


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """What a beam search remembers beside the texts.

    Attributes:
      scores: float32 [B,K], summed log-probabilities of the beams.
      paths: int32 [B,K,room], the row that each token was picked from.
      finished: of each group, the best hypotheses that have ended.
    """

    scores: jax.Array
    paths: jax.Array
    finished: tuple[Hypotheses, ...]


class _Candidates(NamedTuple):
    """Continuations of a group of k beams, best first: [B,C] each. beam counts within the group."""

    total: jax.Array
    beam: jax.Array
    token: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search; with a key its candidates are drawn (beam-sample).

    Attributes:
      length_penalty: float32 scalar. width: K beams of an example, in `groups` groups.
      early_stopping: see `GenerationConfig`.
    """

    terms: Terms
    length_penalty: jax.Array
    key: jax.Array | None = None
    warpers: Warpers | None = None
    width: int = dataclasses.field(default=2, metadata={"static": True})
    groups: int = dataclasses.field(default=1, metadata={"static": True})
    early_stopping: bool | Literal["never"] = dataclasses.field(default=False, metadata={"static": True})

    @property
    def size(self) -> int:
        """Beams of a group."""
        return self.width // self.groups

    def begin(self, text: Text, real: jax.Array) -> Progress:
        K = self.width
        rows = jnp.arange(text.ids.shape[0], dtype=jnp.int32)
        B = len(rows) // K
        # Alike, all would choose alike; those that draw need not.
        first = (jnp.arange(K) % self.size == 0) | (self.warpers is not None)
        beams = Beams(
            scores=jnp.broadcast_to(jnp.where(first, 0.0, UNLIKELY), (B, K)),
            paths=jnp.full((B, K, text.room), EMPTY, jnp.int32),
            finished=(Hypotheses.none(B, self.size, text.room),) * self.groups,
        )
        done = jnp.broadcast_to((jnp.arange(B) >= real)[:, None], (B, self.groups))
        return Progress(text, jnp.zeros_like(rows), done, jnp.bool_(False), (rows % K).reshape(B, K), beams)

    def advance(self, progress: Progress, logits: jax.Array) -> tuple[Progress, Choice]:
        (B, K, V), k, old = logits.shape, self.size, progress.text
        logs, beams = jax.nn.log_softmax(logits, axis=-1), progress.beams
        processed, finished, done = [], [], []
        chosen: list[_Candidates] = []
        for group in range(self.groups):
            mine = slice(group * k, (group + 1) * k)
            text = self._of_group(old, mine, [c.token for c in chosen])
            scores = self.terms.processed(text, logs[:, mine].reshape(-1, V))
            sums = beams.scores[:, mine, None]
            if self.key is None or self.warpers is None:
                found = self._best(scores.reshape(B, k, V) + sums)
            else:
                warped = self.warpers(scores)
                found = self._drawn(warped, sums, row_keys(self.key, B, text.generated))
                scores = warped.over_vocabulary(V)
            ended, hypotheses = progress.done[:, group], beams.finished[group]
            new = self._endings(found, text, beams.paths[:, mine], mine)
            hypotheses = hypotheses.where(ended, hypotheses.best_of(new))
            finished.append(hypotheses)
            done.append(ended | self._is_done(hypotheses, found.total[:, 0], text.generated + 1))
            chosen.append(self._continuing(found, ended))
            processed.append(scores.reshape(B, k, V))
        total, parents, token = (
            jnp.concatenate(parts, axis=1)
            for parts in zip(*(c._replace(beam=c.beam + g * k) for g, c in enumerate(chosen)), strict=True)
        )
        rows = jnp.arange(B, dtype=jnp.int32)[:, None] * K + parents
        text = old.rows(rows.reshape(-1)).add(token.reshape(-1))
        paths = jnp.take_along_axis(beams.paths, parents[:, :, None], axis=1)
        paths = jax.lax.dynamic_update_slice_in_dim(paths, rows[:, :, None], old.generated, axis=2)
        scores = jnp.concatenate(processed, axis=1).reshape(-1, V)
        # A criterion ends the search where it holds for all beams: a beam alone has no end. Of ended examples, and
        # of rows that fill a bucket, it is not asked.
        stop = jnp.all(self.terms.stopped(text, scores) | jnp.repeat(progress.done.all(axis=1), K))
        return Progress(
            text, token.reshape(-1), jnp.stack(done, axis=1), stop, parents, Beams(total, paths, tuple(finished))
        ), Choice(scores, logits.reshape(-1, V))

    def conclude(self, progress: Progress) -> Hypotheses:
        """The hypotheses of each example [B,K], best first: those that ended, and the open beams where none is done."""
        text, beams, k = progress.text, progress.beams, self.size
        B = beams.scores.shape[0]
        ids = text.ids[:, text.prompt :].reshape(B, self.width, -1)
        lengths = jnp.broadcast_to(text.generated, (B, self.width))
        still = Hypotheses(beams.scores / self._penalty(text.generated), lengths, ids, beams.paths)
        groups = []
        for group, finished in enumerate(beams.finished):
            mine = jax.tree.map(lambda a, g=group: a[:, g * k : (g + 1) * k], still)
            groups.append(finished.where(progress.done[:, group], finished.best_of(mine)))
        # Of equals the reference returns the latest first.
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1)[:, ::-1], *groups)
        return together.best_of(Hypotheses.none(B, 0, text.room))

    def _of_group(self, text: Text, mine: slice, tokens: list[jax.Array]) -> Text:
        if self.groups == 1:
            return text
        ids = text.ids.reshape(-1, self.width, text.ids.shape[1])[:, mine]
        earlier = jnp.repeat(jnp.concatenate(tokens, axis=1), self.size, axis=0) if tokens else None
        return dataclasses.replace(text, ids=ids.reshape(-1, ids.shape[-1]), earlier=earlier)

    @property
    def _ends(self) -> int:
        """Candidates for each beam, of which one is left when all that end are taken out."""
        return max(2, 1 + self.terms.eos.shape[0])

    def _best(self, total: jax.Array) -> _Candidates:
        """The best of [B,k,V]."""
        B, k, V = total.shape
        count = self._ends * k
        # The best of each beam, then of those: top_k over rows of V is what compilers know.
        best, ids = jax.lax.top_k(total.reshape(B * k, V), min(count, V))
        best, ids = best.reshape(B, -1), ids.reshape(B, -1)
        total, index = jax.lax.top_k(best, min(count, best.shape[1]))
        beam = index // (best.shape[1] // k)
        return _Candidates(total, beam.astype(jnp.int32), jnp.take_along_axis(ids, index, axis=1))

    def _drawn(self, warped: Candidates, sums: jax.Array, keys: jax.Array) -> _Candidates:
        """Drawn without replacement from k*C candidates of each example, over the sums [B,k,1] of their beams.

        As in the reference, two for each beam, the best first. Further ones follow, for more eos ids than one.
        """
        (B, k, _), C = sums.shape, warped.ids.shape[1]
        total = (warped.scores.reshape(B, k, C) + sums).reshape(B, k * C)
        # The largest of the scores with Gumbel noise are such a draw, in the order in which they were drawn.
        noise = for_rows(lambda key: jax.random.gumbel(key, (k * C,)), keys)
        _, index = jax.lax.top_k(total + noise, min(self._ends * k, k * C))
        drawn = jnp.take_along_axis(total, index, axis=1)
        order = jnp.argsort(jnp.where(jnp.arange(drawn.shape[1]) < 2 * k, -drawn, jnp.inf), axis=1)
        index = jnp.take_along_axis(index, order, axis=1)
        total, ids = (jnp.take_along_axis(part, index, axis=1) for part in (total, warped.ids.reshape(B, k * C)))
        return _Candidates(total, (index // C).astype(jnp.int32), ids)

    def _endings(self, found: _Candidates, text: Text, paths: jax.Array, mine: slice) -> Hypotheses:
        """The candidates among the k best that end here, as hypotheses [B,k]."""
        k, B = self.size, found.beam.shape[0]
        total, beam, token = (part[:, :k] for part in found)
        ids = text.ids[:, text.prompt :].reshape(B, k, -1)
        lengths = jnp.where(self.terms.is_end(token), text.generated + 1, EMPTY)
        rows = jnp.arange(B, dtype=jnp.int32)[:, None] * self.width + mine.start + beam
        paths = jnp.take_along_axis(paths, beam[:, :, None], axis=1)
        paths = jax.lax.dynamic_update_slice_in_dim(paths, rows[:, :, None], text.generated, axis=2)
        ids = jnp.take_along_axis(ids, beam[:, :, None], axis=1)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, token[:, :, None], text.generated, axis=2)
        return Hypotheses(total / self._penalty(text.generated + 1), lengths, ids, paths)

    def _continuing(self, found: _Candidates, ended: jax.Array) -> _Candidates:
        """The k best candidates that do not end; padding in the examples [B] that have ended."""
        rank = jnp.arange(found.token.shape[1])
        order = jnp.argsort(jnp.where(self.terms.is_end(found.token), rank + len(rank), rank), axis=1)[:, : self.size]
        best = jax.tree.map(lambda part: jnp.take_along_axis(part, order, axis=1), found)
        filler = _Candidates(jnp.zeros_like(best.total), jnp.zeros_like(best.beam), self.terms.pad)
        return jax.tree.map(lambda a, b: jnp.where(ended[:, None], a, b), filler, best)

    def _is_done(self, finished: Hypotheses, best: jax.Array, length: jax.Array) -> jax.Array:
        """bool [B]: no better hypothesis is expected; best: the sum [B] of the best candidate."""
        if self.early_stopping is True:
            return finished.full
        at_limit = self.length_penalty > 0.0 if self.early_stopping == "never" else False
        attainable = best / self._penalty(jnp.where(at_limit, self.terms.limit, length))
        return finished.full & (finished.worst >= attainable)

    def _penalty(self, length: jax.Array) -> jax.Array:
        return length.astype(jnp.float32) ** self.length_penalty
