"""Beam search, group beam search and beam sampling (docs/parity.md, N5, N6).

Reference: transformers/generation/beam_search.py, `BeamSearchScorer` and `BeamHypotheses`, and utils.py, `beam_search`,
`beam_sample`, `group_beam_search`. The beams of an example share the slots of one cache (`layers.cache.Branches`).
"""

import dataclasses
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxmodels.generation.sampling import Candidates, Warpers, map_keys, step_keys
from jaxmodels.generation.search import NEG_INF, NO_TOKEN, SearchConfig, SearchState, Selection, Text
from jaxmodels.layers.cache import Cache

INACTIVE_SCORE = -1e9  # initial score of the copies of a prompt that must not be selected first
LOWEST_SCORE = float(jnp.finfo(jnp.float32).min)  # of an empty hypothesis: finite, so that it can be compared


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """S hypotheses for each of M searches.

    Attributes:
      scores: float32 [M,S], divided by the length penalty.
      lengths: int32 [M,S], generated tokens including a final eos id; NO_TOKEN where there is no hypothesis.
      ids: int32 [M,S,capacity], the generated tokens; undefined beyond the length.
      paths: int32 [M,S,capacity], the index in the batch that each token was selected from; NO_TOKEN beyond the length.
    """

    scores: jax.Array
    lengths: jax.Array
    ids: jax.Array
    paths: jax.Array

    @classmethod
    def empty(cls, searches: int, size: int, capacity: int) -> Self:
        array = jnp.full((searches, size, capacity), NO_TOKEN, jnp.int32)
        return cls(jnp.full((searches, size), LOWEST_SCORE), array[:, :, 0], array, array)

    @property
    def full(self) -> jax.Array:
        """bool [M]: all S hypotheses exist, so a worse one is discarded."""
        return jnp.all(self.lengths != NO_TOKEN, axis=1)

    @property
    def worst(self) -> jax.Array:
        """float32 [M]: the lowest score of a full set."""
        return self.scores.min(axis=1)

    def best_of(self, other: Self) -> Self:
        """The best S of these and other hypotheses."""
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, other)
        # A hypothesis with a score of -inf still ranks before an empty one.
        rank = jnp.where(both.lengths == NO_TOKEN, NEG_INF, jnp.maximum(both.scores, LOWEST_SCORE))
        _, index = jax.lax.top_k(rank, self.scores.shape[1])
        return jax.tree.map(lambda a: jnp.take_along_axis(a, _expand_to(index, a), axis=1), both)

    def where(self, condition: jax.Array, other: Self) -> Self:
        """These hypotheses where the condition, bool [M], holds; the others elsewhere."""
        return jax.tree.map(lambda a, b: jnp.where(_expand_to(condition, a), a, b), self, other)


def _expand_to(index: jax.Array, array: jax.Array) -> jax.Array:
    """Appends axes of size 1 until `index` has the rank of `array`."""
    return index.reshape(*index.shape, *(1,) * (array.ndim - index.ndim))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamState:
    """State of a beam search beyond `SearchState`.

    Attributes:
      scores: float32 [B,K], summed log-probabilities of the beams.
      paths: int32 [B,K,capacity], the index in the batch that each token was selected from.
      finished: for each group, the best hypotheses that have ended.
    """

    scores: jax.Array
    paths: jax.Array
    finished: tuple[Hypotheses, ...]


class _BeamCandidates(NamedTuple):
    """Continuations of a group of k beams, best first: [B,C] each. `beam` is the index within the group."""

    total: jax.Array
    beam: jax.Array
    token: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Beam search; with a key the candidates are sampled (beam sampling). See `Search`.

    Attributes:
      length_penalty: float32 scalar.
      num_beams: K beams per example, in `num_groups` groups.
      early_stopping: see `GenerationConfig`.
    """

    config: SearchConfig
    length_penalty: jax.Array
    key: jax.Array | None = None
    warpers: Warpers | None = None
    num_beams: int = dataclasses.field(default=2, metadata={"static": True})
    num_groups: int = dataclasses.field(default=1, metadata={"static": True})
    early_stopping: bool | Literal["never"] = dataclasses.field(default=False, metadata={"static": True})

    @property
    def group_size(self) -> int:
        return self.num_beams // self.num_groups

    def init(self, text: Text, num_real: jax.Array) -> SearchState:
        K = self.num_beams
        index = jnp.arange(text.ids.shape[0], dtype=jnp.int32)
        B = len(index) // K
        # The beams start identical, so without sampling only the first of each group may be selected.
        active = (jnp.arange(K) % self.group_size == 0) | (self.warpers is not None)
        beams = BeamState(
            scores=jnp.broadcast_to(jnp.where(active, 0.0, INACTIVE_SCORE), (B, K)),
            paths=jnp.full((B, K, text.capacity), NO_TOKEN, jnp.int32),
            finished=(Hypotheses.empty(B, self.group_size, text.capacity),) * self.num_groups,
        )
        done = jnp.broadcast_to((jnp.arange(B) >= num_real)[:, None], (B, self.num_groups))
        parents = (index % K).reshape(B, K)
        return SearchState(text, jnp.zeros_like(index), done, jnp.bool_(False), parents=parents, beams=beams)

    def advance(self, state: SearchState, logits: jax.Array) -> tuple[SearchState, Selection]:
        (B, K, V), k, old = logits.shape, self.group_size, state.text
        log_probs, beams = jax.nn.log_softmax(logits, axis=-1), state.beams
        processed, finished, done = [], [], []
        selected: list[_BeamCandidates] = []
        for group in range(self.num_groups):
            members = slice(group * k, (group + 1) * k)
            text = self._group_text(old, members, [c.token for c in selected])
            scores = self.config.process(text, log_probs[:, members].reshape(-1, V))
            sums = beams.scores[:, members, None]
            if self.key is None or self.warpers is None:
                candidates = self._best(scores.reshape(B, k, V) + sums)
            else:
                warped = self.warpers(scores)
                candidates = self._sample(warped, sums, step_keys(self.key, B, text.generated))
                scores = warped.over_vocabulary(V)
            ended, hypotheses = state.done[:, group], beams.finished[group]
            new = self._ended_hypotheses(candidates, text, beams.paths[:, members], members)
            hypotheses = hypotheses.where(ended, hypotheses.best_of(new))
            finished.append(hypotheses)
            done.append(ended | self._is_done(hypotheses, candidates.total[:, 0], text.generated + 1))
            selected.append(self._unended(candidates, ended))
            processed.append(scores.reshape(B, k, V))
        total, parents, tokens = (
            jnp.concatenate(parts, axis=1)
            for parts in zip(*(c._replace(beam=c.beam + g * k) for g, c in enumerate(selected)), strict=True)
        )
        index = jnp.arange(B, dtype=jnp.int32)[:, None] * K + parents
        text = old.take(index.reshape(-1)).append(tokens.reshape(-1))
        paths = jnp.take_along_axis(beams.paths, parents[:, :, None], axis=1)
        paths = jax.lax.dynamic_update_slice_in_dim(paths, index[:, :, None], old.generated, axis=2)
        scores = jnp.concatenate(processed, axis=1).reshape(-1, V)
        # A single beam cannot end by a criterion: the search ends once it holds for all beams. Examples that have ended
        # or only pad the batch are ignored.
        stop = jnp.all(self.config.should_stop(text, scores) | jnp.repeat(state.done.all(axis=1), K))
        beams = BeamState(total, paths, tuple(finished))
        state = SearchState(text, tokens.reshape(-1), jnp.stack(done, axis=1), stop, parents=parents, beams=beams)
        return state, Selection(scores, logits.reshape(-1, V))

    def finalize(self, state: SearchState) -> Hypotheses:
        """The hypotheses of each example [B,K], best first.

        They include the open beams of examples whose search has not finished.
        """
        text, beams, k = state.text, state.beams, self.group_size
        B = beams.scores.shape[0]
        ids = text.ids[:, text.prompt :].reshape(B, self.num_beams, -1)
        lengths = jnp.broadcast_to(text.generated, (B, self.num_beams))
        open_beams = Hypotheses(beams.scores / self._penalty(text.generated), lengths, ids, beams.paths)
        groups = []
        for group, finished in enumerate(beams.finished):
            members = jax.tree.map(lambda a, g=group: a[:, g * k : (g + 1) * k], open_beams)
            groups.append(finished.where(state.done[:, group], finished.best_of(members)))
        # Among equal scores the reference returns the latest first.
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1)[:, ::-1], *groups)
        return together.best_of(Hypotheses.empty(B, 0, text.capacity))

    def _group_text(self, text: Text, members: slice, earlier_tokens: list[jax.Array]) -> Text:
        """The sequences of one group, with the tokens that earlier groups have selected in this step."""
        if self.num_groups == 1:
            return text
        ids = text.ids.reshape(-1, self.num_beams, text.ids.shape[1])[:, members]
        earlier = None
        if earlier_tokens:
            earlier = jnp.repeat(jnp.concatenate(earlier_tokens, axis=1), self.group_size, axis=0)
        return dataclasses.replace(text, ids=ids.reshape(-1, ids.shape[-1]), earlier=earlier)

    @property
    def _candidates_per_beam(self) -> int:
        """Enough candidates that one per beam is left after all that end are removed."""
        return max(2, 1 + self.config.eos_ids.shape[0])

    def _best(self, total: jax.Array) -> _BeamCandidates:
        """The candidates with the highest total scores, out of [B,k,V]."""
        B, k, V = total.shape
        count = self._candidates_per_beam * k
        # First the best of each beam, then the best of these: compilers optimise top_k over rows of V.
        best, ids = jax.lax.top_k(total.reshape(B * k, V), min(count, V))
        best, ids = best.reshape(B, -1), ids.reshape(B, -1)
        total, index = jax.lax.top_k(best, min(count, best.shape[1]))
        beam = index // (best.shape[1] // k)
        return _BeamCandidates(total, beam.astype(jnp.int32), jnp.take_along_axis(ids, index, axis=1))

    def _sample(self, warped: Candidates, sums: jax.Array, keys: jax.Array) -> _BeamCandidates:
        """Samples without replacement from the k*C candidates of each example.

        As in the reference, two per beam are drawn and sorted by score. With more than one eos id, further draws follow
        in the order in which they were drawn.

        Args:
          sums: [B,k,1], the scores of the beams.
          keys: [B].
        """
        (B, k, _), C = sums.shape, warped.ids.shape[1]
        total = (warped.scores.reshape(B, k, C) + sums).reshape(B, k * C)
        # Gumbel top-k: the largest scores with noise are a sample without replacement, in the order of drawing.
        noise = map_keys(lambda key: jax.random.gumbel(key, (k * C,)), keys)
        _, index = jax.lax.top_k(total + noise, min(self._candidates_per_beam * k, k * C))
        drawn = jnp.take_along_axis(total, index, axis=1)
        order = jnp.argsort(jnp.where(jnp.arange(drawn.shape[1]) < 2 * k, -drawn, -NEG_INF), axis=1)
        index = jnp.take_along_axis(index, order, axis=1)
        total, ids = (jnp.take_along_axis(part, index, axis=1) for part in (total, warped.ids.reshape(B, k * C)))
        return _BeamCandidates(total, (index // C).astype(jnp.int32), ids)

    def _ended_hypotheses(
        self, candidates: _BeamCandidates, text: Text, paths: jax.Array, members: slice
    ) -> Hypotheses:
        """Those of the k best candidates that end here, as hypotheses [B,k]."""
        k, B = self.group_size, candidates.beam.shape[0]
        total, beam, token = (part[:, :k] for part in candidates)
        ids = text.ids[:, text.prompt :].reshape(B, k, -1)
        lengths = jnp.where(self.config.is_eos(token), text.generated + 1, NO_TOKEN)
        index = jnp.arange(B, dtype=jnp.int32)[:, None] * self.num_beams + members.start + beam
        paths = jnp.take_along_axis(paths, beam[:, :, None], axis=1)
        paths = jax.lax.dynamic_update_slice_in_dim(paths, index[:, :, None], text.generated, axis=2)
        ids = jnp.take_along_axis(ids, beam[:, :, None], axis=1)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, token[:, :, None], text.generated, axis=2)
        return Hypotheses(total / self._penalty(text.generated + 1), lengths, ids, paths)

    def _unended(self, candidates: _BeamCandidates, ended: jax.Array) -> _BeamCandidates:
        """The k best candidates that do not end; padding in the examples, bool [B], that have ended."""
        rank, is_eos = jnp.arange(candidates.token.shape[1]), self.config.is_eos(candidates.token)
        order = jnp.argsort(jnp.where(is_eos, rank + len(rank), rank), axis=1)[:, : self.group_size]
        best = jax.tree.map(lambda part: jnp.take_along_axis(part, order, axis=1), candidates)
        padding = _BeamCandidates(jnp.zeros_like(best.total), jnp.zeros_like(best.beam), self.config.pad_id)
        return jax.tree.map(lambda a, b: jnp.where(ended[:, None], a, b), padding, best)

    def _is_done(self, finished: Hypotheses, best: jax.Array, length: jax.Array) -> jax.Array:
        """bool [B]: no better hypothesis is expected. best: float32 [B], the total score of the best candidate."""
        if self.early_stopping is True:
            return finished.full
        at_limit = self.length_penalty > 0.0 if self.early_stopping == "never" else False
        attainable = best / self._penalty(jnp.where(at_limit, self.config.max_new_tokens, length))
        return finished.full & (finished.worst >= attainable)

    def _penalty(self, length: jax.Array) -> jax.Array:
        return length.astype(jnp.float32) ** self.length_penalty


def split_beams(captures: dict[str, jax.Array], cache: Cache, prompt: int) -> dict[str, jax.Array]:
    """Reshapes what a model captured for one token of each of K beams to a batch of B*K sequences of one token.

    Args:
      captures: hidden_states [L,B,K,D], attentions [L,B,H,K,S], cross_attentions [L,B,H,K,S'].
      cache: after these tokens.
      prompt: the slots before the beams.

    Returns:
      [L,N,1,D] and [L,N,H,1,S]. S counts only the slots of the sequence itself: those of the prompt and one per
      generated token.
    """
    if cache.beams is None:
        return captures
    seen = cache.beams.visible
    B, K, _ = seen.shape
    result = {}
    for name, array in captures.items():
        per_beam = array.swapaxes(2, 3) if array.ndim == 5 else array  # [L,B,K,...]
        if name in ("attentions", "decoder_attentions"):
            # Of the K slots of each step, the one that the beam sees.
            visible = jnp.argmax(seen[:, :, prompt:].reshape(B, K, -1, K), axis=-1)
            later = per_beam[..., prompt:].reshape(*per_beam.shape[:-1], -1, K)
            later = jnp.take_along_axis(later, visible[None, :, :, None, :, None], axis=-1)[..., 0]
            per_beam = jnp.concatenate([per_beam[..., :prompt], later], axis=-1)
        per_beam = per_beam.reshape(per_beam.shape[0], B * K, *per_beam.shape[3:])
        result[name] = per_beam[:, :, None] if per_beam.ndim == 3 else per_beam[:, :, :, None]
    return result
