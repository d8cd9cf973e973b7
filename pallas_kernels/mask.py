"""Which keys a query sees, as a description instead of a [B, 1, T, S] array."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp


def query_positions(T, start):
    """Positions of T queries among the keys: int32 [1, T], or [B, T] where `start` is [B]."""
    return jnp.asarray(start, jnp.int32).reshape(-1, 1) + jnp.arange(T, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """A visibility rule, with p = query_start + t the position of query t among the keys:

        visible(b, t, s) = key_valid[b, s] and (not causal or s <= p)
                           and (p - window[0] <= s <= p + window[1] or key_global[b, s])

    A missing part hides nothing. `key_global` lifts the window only: a causal mask still hides later global keys.

    causal: static bool.
    window: static (left, right), keys to either side that are still seen, both inclusive.
    key_valid: bool [B, S], False for padding.
    key_global: bool [B, S], keys that every query sees whatever the window.
    global_at: int32 [B, G], the places of the global keys, S where there are fewer than G. It says nothing that
      key_global does not, but its static G spares an implementation the search for them. Needs key_global.
    query_start: int32 scalar or [B]; with a cache, the number of tokens already in it. None means 0.
    """

    causal: bool = field(default=False, metadata={"static": True})
    window: tuple[int, int] | None = field(default=None, metadata={"static": True})
    key_valid: jax.Array | None = None
    key_global: jax.Array | None = None
    global_at: jax.Array | None = None
    query_start: jax.Array | int | None = None

    def __post_init__(self):
        if self.window is not None and not (
            isinstance(self.window, tuple)
            and len(self.window) == 2
            and all(isinstance(w, int) and w >= 0 for w in self.window)
        ):
            raise ValueError(
                f"Mask.window must be None or a tuple of two ints >= 0, (left, right); got {self.window!r}"
            )

    @property
    def start(self):
        """Position of the first query among the keys: int scalar or [B]."""
        return 0 if self.query_start is None else self.query_start

    @property
    def hides_nothing(self) -> bool:
        """Known without looking at values: every query sees every key."""
        return not self.causal and self.window is None and self.key_valid is None

    def dense(self, B: int, T: int, S: int) -> jax.Array:
        """The rule written out: bool [B, 1, T, S], or [1, 1, T, S] where no part depends on the example."""
        return self.at_keys(T, jnp.arange(S, dtype=jnp.int32)[None], self.key_valid, self.key_global)

    def at_keys(self, T, positions, valid, everywhere=None) -> jax.Array:
        """`dense` for any list of keys: int32 [B or 1, N] positions and their bool [B, N] flags (or None)."""
        p = query_positions(T, self.start)[:, :, None]
        s = positions[:, None, :]
        visible = jnp.ones((1, T, positions.shape[1]), bool)
        if self.window is not None:
            left, right = self.window
            visible = (s >= p - left) & (s <= p + right)
            if everywhere is not None:
                visible = visible | everywhere[:, None, :]
        if self.causal:
            visible = visible & (s <= p)
        if valid is not None:
            visible = visible & valid[:, None, :]
        return visible[:, None]

    def block(self, t0, s0, S: int) -> "Mask":
        """The same rule for queries from index t0 on and the S keys from s0 on (offsets may be traced)."""

        def keys(flags):
            return None if flags is None else jax.lax.dynamic_slice_in_dim(flags, s0, S, axis=1)

        return replace(
            self,
            key_valid=keys(self.key_valid),
            key_global=keys(self.key_global),
            global_at=None,
            query_start=self.start + t0 - s0,
        )

    def check(self, B: int, S: int) -> None:
        """Raises ValueError where an array does not fit B examples and S keys."""
        for name in ("key_valid", "key_global"):
            flags = getattr(self, name)
            if flags is not None and (flags.shape != (B, S) or flags.dtype != jnp.bool_):
                raise ValueError(f"Mask.{name} must be bool [B, S] = [{B}, {S}]; got {flags.dtype} {list(flags.shape)}")
        if self.global_at is not None and (
            self.key_global is None or self.global_at.ndim != 2 or self.global_at.shape[0] != B
        ):
            raise ValueError(
                f"Mask.global_at must be int [B, G] with B = {B}, beside key_global; got {list(self.global_at.shape)}"
                f"{' without key_global' if self.key_global is None else ''}"
            )
        if self.query_start is not None:
            start = jnp.asarray(self.query_start)
            if start.shape not in ((), (B,)) or not jnp.issubdtype(start.dtype, jnp.integer):
                raise ValueError(
                    f"Mask.query_start must be an integer scalar or [B] = [{B}]; got {start.dtype} {list(start.shape)}"
                )
