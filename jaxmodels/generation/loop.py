"""The decoding loop, over a step function: it knows neither the model nor how a token is chosen."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.generation.streaming import emit

NONE = -1  # no id
# (tokens int32 [B], state) -> (logits float32 [B,V], state)
Step = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ending:
    """When to stop.

    Attributes:
      limit: int32 scalar, tokens to generate at most; traced, at or below the static room for them.
      eos: int32 [E], ids that end a row (E may be 0).
      pad: int32 scalar, what follows the end of a row.
      forced_first, forced_last: int32 scalars, the first token and the one at the limit; NONE where they are free.
    """

    limit: jax.Array
    eos: jax.Array
    pad: jax.Array
    forced_first: jax.Array
    forced_last: jax.Array

    def force(self, token: jax.Array, index: jax.Array) -> jax.Array:
        """The token of step `index`, or the one that has to be there."""
        token = jnp.where((index == 0) & (self.forced_first != NONE), self.forced_first, token)
        return jnp.where((index == self.limit - 1) & (self.forced_last != NONE), self.forced_last, token)


def decode(
    step: Step,
    logits: jax.Array,
    state: Any,
    *,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    ending: Ending,
    room: int,
    stream: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Generates until every row has ended or the limit is reached.

    Args:
      logits: float32 [B,V] after the prompt; state: what `step` carries on.
      choose: (logits [B,V], index of the step) -> ids int32 [B].
      room: columns of the result.
      stream: number of a callback that gets every column as it is made.

    Returns:
      ids int32 [B,room] (pad after the end) and the number of columns that were generated, int32.
    """

    def place(tokens, index, logits, done):
        """Chooses column `index` and writes it; says which rows are done and whether the stream wants more."""
        token = jnp.where(done, ending.pad, ending.force(choose(logits, index), index))
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], index, axis=1)
        done = done | jnp.any(token[:, None] == ending.eos, axis=1)
        more = jnp.bool_(True) if stream is None else emit(stream, token)
        return tokens, token, done, more

    def go_on(carry):
        index, _, _, done, more, _ = carry
        return (index < ending.limit) & ~jnp.all(done) & more

    def body(carry):
        index, tokens, token, done, _, state = carry
        logits, state = step(token, state)
        tokens, token, done, more = place(tokens, index, logits, done)
        return index + 1, tokens, token, done, more, state

    batch = logits.shape[0]
    tokens = jnp.full((batch, room), ending.pad, jnp.int32)
    tokens, token, done, more = place(tokens, jnp.int32(0), logits, jnp.zeros(batch, bool))
    count, tokens, *_ = jax.lax.while_loop(go_on, body, (jnp.int32(1), tokens, token, done, more, state))
    return tokens, count
