"""What the ways of searching have in common: how far a search has come, what it chooses under, and what ends it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.processors import Processor
from jaxmodels.generation.text import Text
from jaxmodels.messages import brief

# (text, scores) -> bool [N] or scalar: rows that end here.
Criterion = Callable[[Text, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a search has come.

    Attributes:
      text: N rows. token: int32 [N], the newest tokens.
      done: bool, the rows that have ended; of a beam search [B,groups].
      stop: bool scalar, the whole search ends.
      parents: int32 [B,K], the branch that each newest token continues; None where there are no branches.
      beams: what a beam search remembers beside it.
    """

    text: Text
    token: jax.Array
    done: jax.Array
    stop: jax.Array
    parents: jax.Array | None = None
    beams: Any = None

    @property
    def over(self) -> jax.Array:
        """bool scalar: nothing is left to do."""
        return self.stop | jnp.all(self.done)


class Choice(NamedTuple):
    """What the tokens were chosen from: float32 [N,V] each; the scores after all processors and warpers."""

    scores: jax.Array
    logits: jax.Array


class Search(Protocol):
    """A way of choosing tokens, and a pytree."""

    @property
    def terms(self) -> "Terms":
        """What it works under."""

    @property
    def width(self) -> int:
        """Branches of a text."""

    def begin(self, text: Text, real: jax.Array) -> "Progress":
        """text: each prompt `width` times. real: int32 scalar, prompts that do not fill a bucket only."""

    def advance(self, progress: Progress, logits: jax.Array) -> tuple[Progress, Choice]:
        """logits float32 [B,width,V] -> one more token in every row."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """What every search works under.

    Attributes:
      eos: int32 [E], ids that end a row (E may be 0). pad: int32 scalar, what follows the end of a row.
      limit: int32 scalar, tokens to generate at most.
      processors: of the scores, in order. criteria: the caller's.
    """

    eos: jax.Array
    pad: jax.Array
    limit: jax.Array
    processors: tuple[Processor, ...] = ()
    criteria: tuple[Criterion, ...] = ()

    def processed(self, text: Text, scores: jax.Array) -> jax.Array:
        """Raises ValueError where a processor returns anything but scores like those that it got."""
        for processor in self.processors:
            scores = _like(scores, processor(text, scores), f"logits_processor {_name(processor)}")
        return scores

    def is_end(self, token: jax.Array) -> jax.Array:
        """bool, shaped like token."""
        return jnp.any(token[..., None] == self.eos, axis=-1)

    def stopped(self, text: Text, scores: jax.Array) -> jax.Array:
        """bool [N]: what the criteria say.

        Raises:
          ValueError: one says something else.
        """
        stop = jnp.zeros(text.ids.shape[0], bool)
        for criterion in self.criteria:
            stop = stop | _like(stop, criterion(text, scores), f"stopping_criteria {_name(criterion)}", scalar=True)
        return stop


def _like(wanted: jax.Array, returned: Any, whose: str, *, scalar: bool = False) -> jax.Array:
    """What a function of the caller returned, of the shape (or a scalar) and type that it has to have."""
    shapes = (wanted.shape, ()) if scalar else (wanted.shape,)
    found = returned if isinstance(returned, jax.Array | np.ndarray | np.generic | bool) else None
    if found is not None and np.shape(found) in shapes and jnp.result_type(found) == wanted.dtype:
        return jnp.asarray(found)
    got = brief(returned) if found is None else f"{jnp.result_type(found)} {np.shape(found)}"
    raise ValueError(f"{whose} returns {wanted.dtype} {' or '.join(map(str, shapes))} of (text, scores), got {got}")


def _name(function: Any) -> str:
    function = getattr(function, "func", function)  # of a jax.tree_util.Partial
    return getattr(function, "__name__", type(function).__name__)
