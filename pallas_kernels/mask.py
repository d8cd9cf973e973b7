"""Visibility rules of attention, stored as a description instead of a [B, 1, T, S] array."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp

# Score of a masked key in every implementation. It is finite, so that a query without a visible key has finite scores
# and gradients (inf - inf is NaN), and so low that exp(MASK_VALUE - max) is exactly zero beside any visible key.
MASK_VALUE = -2e38


def query_positions(T: int, start: jax.Array | int) -> jax.Array:
    """Positions of T queries among the keys.

    Args:
      T: Number of queries.
      start: Position of the first query: an int scalar, or int [B].

    Returns:
      int32 [1, T], or [B, T] where `start` is [B].
    """
    return jnp.asarray(start, jnp.int32).reshape(-1, 1) + jnp.arange(T, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """A visibility rule, with p = query_start + t the position of query t among the keys:

        visible(b, t, s) = key_valid[b, s] and (not causal or s <= p)
                           and (p - window[0] <= s <= p + window[1] or key_global[b, s])
                           and query_segments[b, t] == key_segments[b, s]

    A part that is None masks nothing. `key_global` lifts the window only: a causal mask still masks later global keys.

    Attributes:
      causal: Static bool.
      window: Static (left, right), the number of visible keys on either side of the query, both inclusive.
      key_valid: bool [B, S], False for padding.
      key_global: bool [B, S], keys that every query sees regardless of the window.
      global_at: int32 [B, N], the positions of the global keys, padded with S. It repeats `key_global`, but its static
        N spares an implementation the search for the positions. Requires `key_global`.
      query_start: int32 scalar or [B]; with a cache, the number of tokens already in it. None means 0.
      query_segments: int32 [B, T], which of the sequences that are packed into an example a query belongs to.
      key_segments: int32 [B, S], the same of the keys. Both or neither, and without `key_global`.

    Examples:
      >>> print(pallas_kernels.Mask(causal=True, window=(1, 0)).dense(1, 4, 4)[0, 0].astype(int))
      [[1 0 0 0]
       [1 1 0 0]
       [0 1 1 0]
       [0 0 1 1]]
    """

    causal: bool = field(default=False, metadata={"static": True})
    window: tuple[int, int] | None = field(default=None, metadata={"static": True})
    key_valid: jax.Array | None = None
    key_global: jax.Array | None = None
    global_at: jax.Array | None = None
    query_start: jax.Array | int | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not (
            isinstance(self.window, tuple)
            and len(self.window) == 2
            and all(isinstance(w, int) and w >= 0 for w in self.window)
        ):
            raise ValueError(
                f"Mask.window must be None or a tuple of two ints >= 0, (left, right); got {self.window!r}"
            )

    @property
    def start(self) -> jax.Array | int:
        """Position of the first query among the keys: int scalar or [B]."""
        return 0 if self.query_start is None else self.query_start

    @property
    def allows_all(self) -> bool:
        """Whether every query sees every key, as far as the static parts tell."""
        return not self.causal and self.window is None and self.key_valid is None and self.key_segments is None

    def dense(self, B: int, T: int, S: int) -> jax.Array:
        """The rule as an array: bool [B, 1, T, S], or [1, 1, T, S] where no part depends on the example."""
        visible = self.visible(T, jnp.arange(S, dtype=jnp.int32)[None], self.key_valid, self.key_global)
        if self.query_segments is None or self.key_segments is None:
            return visible
        return visible & (self.query_segments[:, None, :, None] == self.key_segments[:, None, None, :])

    def visible(
        self, T: int, positions: jax.Array, valid: jax.Array | None, is_global: jax.Array | None = None
    ) -> jax.Array:
        """The rule without segments as an array for any list of keys.

        Args:
          T: Number of queries.
          positions: int32 [B or 1, N], the keys' positions.
          valid: bool [B, N], as `key_valid`, or None.
          is_global: bool [B, N], as `key_global`, or None.

        Returns:
          bool [B or 1, 1, T, N].
        """
        p = query_positions(T, self.start)[:, :, None]
        s = positions[:, None, :]
        visible = jnp.ones((1, T, positions.shape[1]), bool)
        if self.window is not None:
            left, right = self.window
            visible = (s >= p - left) & (s <= p + right)
            if is_global is not None:
                visible = visible | is_global[:, None, :]
        if self.causal:
            visible = visible & (s <= p)
        if valid is not None:
            visible = visible & valid[:, None, :]
        return visible[:, None]

    def block(self, t0: jax.Array | int, T: int, s0: jax.Array | int, S: int) -> "Mask":
        """The same rule for the T queries from index t0 on and the S keys from s0 on (offsets may be traced)."""

        def cut(x: jax.Array | None, first: jax.Array | int, count: int) -> jax.Array | None:
            return None if x is None else jax.lax.dynamic_slice_in_dim(x, first, count, axis=1)

        return replace(
            self,
            key_valid=cut(self.key_valid, s0, S),
            key_global=cut(self.key_global, s0, S),
            global_at=None,
            query_start=self.start + t0 - s0,
            query_segments=cut(self.query_segments, t0, T),
            key_segments=cut(self.key_segments, s0, S),
        )

    def validate(self, B: int, T: int, S: int) -> None:
        """Raises ValueError where an array does not fit B examples, T queries and S keys."""
        self._validate_segments(B, T, S)
        for name in ("key_valid", "key_global"):
            flags = getattr(self, name)
            if flags is not None and (flags.shape != (B, S) or flags.dtype != jnp.bool_):
                raise ValueError(f"Mask.{name} must be bool [B, S] = [{B}, {S}]; got {flags.dtype} {list(flags.shape)}")
        if self.global_at is not None and (
            self.key_global is None or self.global_at.ndim != 2 or self.global_at.shape[0] != B
        ):
            raise ValueError(
                f"Mask.global_at must be int [B, N] with B = {B}, beside key_global; got {list(self.global_at.shape)}"
                f"{' without key_global' if self.key_global is None else ''}"
            )
        if self.query_start is not None:
            start = jnp.asarray(self.query_start)
            if start.shape not in ((), (B,)) or not jnp.issubdtype(start.dtype, jnp.integer):
                raise ValueError(
                    f"Mask.query_start must be an integer scalar or [B] = [{B}]; got {start.dtype} {list(start.shape)}"
                )

    def _validate_segments(self, B: int, T: int, S: int) -> None:
        pair = (self.query_segments, self.key_segments)
        if pair[0] is pair[1] is None:
            return

        def fits(x: jax.Array | None, length: int) -> bool:
            return x is not None and x.shape == (B, length) and jnp.issubdtype(x.dtype, jnp.integer)

        if not all(map(fits, pair, (T, S))):
            got = [None if x is None else f"{x.dtype} {list(x.shape)}" for x in pair]
            raise ValueError(
                f"Mask.query_segments and key_segments must be int [B, T] = [{B}, {T}] and [B, S] = [{B}, {S}]; "
                f"got {got[0]} and {got[1]}"
            )
        if self.key_global is not None:
            raise ValueError("a Mask with segments has no key_global: a global key would be seen from other segments")
