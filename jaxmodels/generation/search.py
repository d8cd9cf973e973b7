"""What all search strategies share: the token buffer, the state and the configuration of a search."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.messages import brief

NO_TOKEN = -1  # marks positions without a token, in buffers and in encoder inputs
NEG_INF = -jnp.inf  # the score of a token that must not be generated


def bucket(size: int, smallest: int = 32, steps: int = 2) -> int:
    """Rounds a size up to a bucket, so that inputs of similar sizes share one compiled program.

    The buckets are smallest * (1, 1.5, 2, 3, 4, 6, 8, ...): at most half of a bucket is padding, a fifth on average.

    Args:
      size: at least 1.
      smallest: the first bucket.
      steps: buckets per doubling. With 4 they are (1, 1.25, 1.5, 1.75, 2, 2.5, ...): at most a quarter is padding.
    """
    double = smallest
    while 2 * double <= size:
        double *= 2
    return next(found for i in range(steps + 1) if (found := double * (steps + i) // steps) >= size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
    """The token buffer of N sequences, as logits processors and stopping criteria see it.

    All sequences have the same length. As in the reference, padding in the caller's prompts is part of the sequence;
    padding that buckets add is not.

    Attributes:
      ids: int32 [N,L]; columns start .. end-1 hold the tokens, the other columns are undefined.
      start, end: int32 scalars, traced.
      prompt: static, the column of the first generated token.
      earlier: int32 [N,M], tokens that earlier beam groups of the same example selected in this step, or None.
    """

    ids: jax.Array
    start: jax.Array
    end: jax.Array
    prompt: int = dataclasses.field(metadata={"static": True})
    earlier: jax.Array | None = None

    @classmethod
    def from_prefix(cls, prefix: jax.Array, length: int | jax.Array, capacity: int, pad_id: jax.Array) -> Self:
        """A buffer that begins with a prefix int32 [N,P].

        Args:
          length: tokens of the prefix; they are its last columns.
          capacity: columns to reserve for generated tokens.
          pad_id: int32 scalar, the initial value of these columns.
        """
        batch, columns = prefix.shape
        ids = jnp.concatenate([prefix, jnp.full((batch, capacity), pad_id, prefix.dtype)], axis=1)
        return cls(ids, jnp.int32(columns) - length, jnp.int32(columns), columns)

    @property
    def count(self) -> jax.Array:
        """int32 scalar: tokens per sequence, the prompt included; the reference's `cur_len`."""
        return self.end - self.start

    @property
    def generated(self) -> jax.Array:
        """int32 scalar: generated tokens per sequence."""
        return self.end - self.prompt

    @property
    def capacity(self) -> int:
        """Columns reserved for generated tokens."""
        return self.ids.shape[1] - self.prompt

    @property
    def written(self) -> jax.Array:
        """bool [L]: the columns that hold tokens."""
        columns = jnp.arange(self.ids.shape[1])
        return (columns >= self.start) & (columns < self.end)

    def last(self, count: int) -> jax.Array:
        """The last `count` tokens, int32 [N,count], oldest first; -1 where a sequence is shorter."""
        columns = self.end - count + jnp.arange(count)
        ids = jnp.take(self.ids, jnp.maximum(columns, 0), axis=1)
        return jnp.where(columns >= self.start, ids, NO_TOKEN)

    def append(self, tokens: jax.Array) -> Self:
        """Appends one token to every sequence, int32 [N]."""
        ids = jax.lax.dynamic_update_slice_in_dim(self.ids, tokens[:, None], self.end, axis=1)
        return dataclasses.replace(self, ids=ids, end=self.end + 1)

    def take(self, index: jax.Array) -> Self:
        """Gathers sequences by index, int32 [M]."""
        return dataclasses.replace(self, ids=jnp.take(self.ids, index, axis=0))


# (text, scores float32 [N,V]) -> scores; a pytree, so that its arrays are traced.
Processor = Callable[[Text, jax.Array], jax.Array]
# (text, scores float32 [N,V]) -> bool [N] or scalar: sequences that end here.
Criterion = Callable[[Text, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """State of a search over N sequences.

    Attributes:
      text: the sequences.
      tokens: int32 [N], the newest token of each.
      done: bool [N], sequences that have ended; of a beam search [B,groups].
      stop: bool scalar, ends the whole search.
      lengths: int32 [N], generated tokens up to the end of each sequence; None with beams, see `beams.Hypotheses`.
      parents: int32 [B,K], the beam that each newest token continues; None without beams.
      beams: further state of a beam search.
    """

    text: Text
    tokens: jax.Array
    done: jax.Array
    stop: jax.Array
    lengths: jax.Array | None = None
    parents: jax.Array | None = None
    beams: Any = None

    @property
    def finished(self) -> jax.Array:
        """bool scalar: no sequence is left to continue."""
        return self.stop | jnp.all(self.done)


class Selection(NamedTuple):
    """What a step selected its tokens from.

    Attributes:
      scores: float32 [N,V], after all processors and warpers.
      logits: float32 [N,V], as the model returned them.
    """

    scores: jax.Array
    logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Configuration that is common to all search strategies.

    Attributes:
      eos_ids: int32 [E], ids that end a sequence (E may be 0).
      pad_id: int32 scalar, fills a sequence after its end.
      max_new_tokens: int32 scalar.
      processors: applied to the scores, in order.
      criteria: the caller's stopping criteria.
    """

    eos_ids: jax.Array
    pad_id: jax.Array
    max_new_tokens: jax.Array
    processors: tuple[Processor, ...] = ()
    criteria: tuple[Criterion, ...] = ()

    def process(self, text: Text, scores: jax.Array) -> jax.Array:
        """Applies the processors to scores float32 [N,V].

        Raises:
          ValueError: a processor returns another shape or dtype.
        """
        for processor in self.processors:
            scores = _checked(processor(text, scores), scores, f"logits_processor {_name(processor)}")
        return scores

    def is_eos(self, tokens: jax.Array) -> jax.Array:
        """Whether each token ends its sequence: bool, shaped like `tokens`."""
        return jnp.any(tokens[..., None] == self.eos_ids, axis=-1)

    def should_stop(self, text: Text, scores: jax.Array) -> jax.Array:
        """Evaluates the stopping criteria, bool [N].

        Raises:
          ValueError: a criterion returns another shape or dtype.
        """
        stop = jnp.zeros(text.ids.shape[0], bool)
        for criterion in self.criteria:
            name = f"stopping_criteria {_name(criterion)}"
            stop = stop | _checked(criterion(text, scores), stop, name, allow_scalar=True)
        return stop


def _checked(returned: Any, expected: jax.Array, name: str, *, allow_scalar: bool = False) -> jax.Array:
    """Checks that the result of a caller's function has the expected dtype and shape (or is a scalar)."""
    shapes = (expected.shape, ()) if allow_scalar else (expected.shape,)
    found = returned if isinstance(returned, jax.Array | np.ndarray | np.generic | bool) else None
    if found is not None and np.shape(found) in shapes and jnp.result_type(found) == expected.dtype:
        return jnp.asarray(found)
    got = brief(returned) if found is None else f"{jnp.result_type(found)} {np.shape(found)}"
    raise ValueError(f"{name} must return {expected.dtype} {' or '.join(map(str, shapes))}, got {got}")


def _name(function: Any) -> str:
    function = getattr(function, "func", function)  # a jax.tree_util.Partial wraps it
    return getattr(function, "__name__", type(function).__name__)


class Search(Protocol):
    """A search strategy: selects the next tokens from logits; a pytree."""

    @property
    def config(self) -> SearchConfig: ...

    @property
    def num_beams(self) -> int:
        """Sequences per prompt."""

    def init(self, text: Text, num_real: jax.Array) -> SearchState:
        """The state before the first token.

        Args:
          text: each prompt `num_beams` times.
          num_real: int32 scalar, the number of prompts; the remaining ones only pad the batch.
        """

    def advance(self, state: SearchState, logits: jax.Array) -> tuple[SearchState, Selection]:
        """Selects one more token per sequence from logits float32 [B,num_beams,V]."""


class Sampler(Protocol):
    """Draws tokens from scores; a pytree (see `sampling.Warpers`)."""

    def sample(self, scores: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one token per sequence from scores float32 [N,V].

        Args:
          key: one key, or keys [N].
          step: int32 scalar, the number of the step.

        Returns:
          Tokens int32 [N], and the scores float32 [N,V] that they were drawn from.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GreedyOrSample:
    """Search with one sequence per prompt: greedy decoding, or sampling if there is a key (docs/parity.md, N1)."""

    config: SearchConfig
    key: jax.Array | None = None
    sampler: Sampler | None = None
    num_beams: int = dataclasses.field(default=1, metadata={"static": True})

    def init(self, text: Text, num_real: jax.Array) -> SearchState:
        """See `Search`."""
        index = jnp.arange(text.ids.shape[0])
        zeros = jnp.zeros_like(index)
        return SearchState(text, zeros, index >= num_real, jnp.bool_(False), zeros)

    def advance(self, state: SearchState, logits: jax.Array) -> tuple[SearchState, Selection]:
        """See `Search`."""
        assert state.lengths is not None
        logits = logits[:, 0]
        scores = self.config.process(state.text, logits)
        if self.key is None or self.sampler is None:
            tokens = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        else:
            tokens, scores = self.sampler.sample(scores, self.key, state.text.generated)
        tokens = jnp.where(state.done, self.config.pad_id, tokens)
        text, lengths = state.text.append(tokens), state.lengths + (~state.done).astype(jnp.int32)
        done = state.done | self.config.is_eos(tokens)
        if self.config.criteria:
            done = done | self.config.should_stop(text, scores)
        state = dataclasses.replace(state, text=text, tokens=tokens, done=done, lengths=lengths)
        return state, Selection(scores, logits)
