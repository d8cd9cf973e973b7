"""What has been written so far, as logits processors and stopping criteria see it."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
    """N rows of ids, all of the same length.

    As in the reference, padding that the caller put before a prompt counts as text; what buckets add does not.

    Attributes:
      ids: int32 [N,L]; columns start .. end-1 hold the text, the others nothing.
      start, end: int32 scalars, traced.
      prompt: static, the column of the first generated token.
      earlier: int32 [N,M], tokens that earlier beam groups of the same example chose in this step, or None.
    """

    ids: jax.Array
    start: jax.Array
    end: jax.Array
    prompt: int = dataclasses.field(metadata={"static": True})
    earlier: jax.Array | None = None

    @classmethod
    def begin(cls, prompt: jax.Array, given: int | jax.Array, room: int, fill: jax.Array) -> Self:
        """From a prompt [N,P] whose last `given` columns are the caller's, with room for more."""
        rows, columns = prompt.shape
        ids = jnp.concatenate([prompt, jnp.full((rows, room), fill, prompt.dtype)], axis=1)
        return cls(ids, jnp.int32(columns) - given, jnp.int32(columns), columns)

    @property
    def count(self) -> jax.Array:
        """Tokens in a row, with the prompt; the reference's `cur_len`."""
        return self.end - self.start

    @property
    def generated(self) -> jax.Array:
        """Tokens in a row after the prompt."""
        return self.end - self.prompt

    @property
    def room(self) -> int:
        return self.ids.shape[1] - self.prompt

    @property
    def written(self) -> jax.Array:
        """bool [L], the columns that hold text."""
        columns = jnp.arange(self.ids.shape[1])
        return (columns >= self.start) & (columns < self.end)

    def last(self, count: int) -> jax.Array:
        """int32 [N,count], the last tokens, the newest at the end; -1 where the text is shorter."""
        columns = self.end - count + jnp.arange(count)
        ids = jnp.take(self.ids, jnp.maximum(columns, 0), axis=1)
        return jnp.where(columns >= self.start, ids, -1)

    def add(self, token: jax.Array) -> Self:
        """One more token [N] in every row."""
        ids = jax.lax.dynamic_update_slice_in_dim(self.ids, token[:, None], self.end, axis=1)
        return dataclasses.replace(self, ids=ids, end=self.end + 1)

    def rows(self, index: jax.Array) -> Self:
        """Some of the rows, or some of them several times."""
        return dataclasses.replace(self, ids=jnp.take(self.ids, index, axis=0))
