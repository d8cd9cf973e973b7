"""Terms added to the attention scores, in the smallest form that holds them.

Each bias type has the same four members: `before_scale` (whether it is added before or after the scores are scaled),
`validate`, `dense` (the definition, used by the reference) and `block` (the bias of a block of queries and keys).
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from pallas_kernels.mask import query_positions

# An offset into an axis, which may be traced.
Index = jax.Array | int


def skew(x: jax.Array, S: int) -> jax.Array:
    """Shifts each row so that diagonals become columns: y[..., t, s] = x[..., t, s - t + T - 1].

    Uses reshapes alone: no gather, and no scatter in the gradient. (The relative shift of Transformer-XL and Music
    Transformer, arXiv:1809.04281.)

    Args:
      x: [..., T, T+S-1].
      S: Number of keys.

    Returns:
      [..., T, S].
    """
    *lead, T, N = x.shape
    flat = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)]).reshape(*lead, T * (N + 1))
    return flat[..., T - 1 : T - 1 + T * N].reshape(*lead, T, N)[..., :S]


def _repeat_heads(x: jax.Array, H: int) -> jax.Array:
    """[B, G, ...] -> [B, H, ...]: a term of the keys for each query head."""
    return jnp.repeat(x, H // x.shape[1], axis=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseBias:
    """A bias for every pair of query and key, added to the scaled scores.

    Attributes:
      values: Float, broadcastable to [B, H, T, S].

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> bias = pallas_kernels.DenseBias(jnp.zeros((16, 16)))
      >>> pallas_kernels.attention(q, k, v, bias=bias).shape
      (2, 16, 4, 8)
    """

    values: jax.Array
    before_scale: ClassVar[bool] = False

    def validate(self, B: int, H: int, T: int, S: int, K: int) -> None:
        """Raises ValueError where the values do not broadcast to [B, H, T, S]."""
        shape, full = self.values.shape, (B, H, T, S)
        if len(shape) > 4 or any(n not in (1, m) for n, m in zip(reversed(shape), reversed(full), strict=False)):
            raise ValueError(f"DenseBias.values must broadcast to [B, H, T, S] = {list(full)}; got {list(shape)}")

    def dense(self, q: jax.Array, k: jax.Array, start: Index) -> jax.Array:
        """float32 [B or 1, H or 1, T or 1, S or 1]."""
        return jnp.expand_dims(self.values.astype(jnp.float32), tuple(range(4 - self.values.ndim)))

    def block(self, t0: Index, T: int, s0: Index, S: int, num_queries: int) -> "DenseBias":
        """The values for T queries from index t0 and S keys from s0 (offsets may be traced)."""
        values = self.values
        for axis, start, size in ((-2, t0, T), (-1, s0, S)):
            if values.ndim >= -axis and values.shape[axis] > 1:
                values = jax.lax.dynamic_slice_in_dim(values, start, size, values.ndim + axis)
        return DenseBias(values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToeplitzBias:
    """A bias that depends on the distance between query and key alone (T5), without its T x S array.

    bias[b, h, t, s] = diagonals[b, h, s - t + T - 1], added to the scaled scores. t is the query's index in this call,
    so the diagonals belong to the call; `relative_positions`, which takes the (traced) start of the queries, gives the
    distance of each one. One decoded token against a cache of S then needs S values:

        ToeplitzBias(table[:, bucket(ToeplitzBias.relative_positions(T, S, query_start))])

    Attributes:
      diagonals: Float [H, T+S-1] or [B, H, T+S-1].

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> distances = pallas_kernels.ToeplitzBias.relative_positions(16, 16)
      >>> slopes = jnp.array([[0.5], [0.25], [0.125], [0.0625]])  # of each head, as in ALiBi
      >>> bias = pallas_kernels.ToeplitzBias(slopes * distances)
      >>> pallas_kernels.attention(q, k, v, bias=bias, mask=pallas_kernels.Mask(causal=True)).shape
      (2, 16, 4, 8)
    """

    diagonals: jax.Array
    before_scale: ClassVar[bool] = False

    @staticmethod
    def relative_positions(T: int, S: int, query_start: Index | None = None) -> jax.Array:
        """Key position minus query position on each diagonal: int32 [T+S-1], or [B, T+S-1] for a `query_start` [B]."""
        start = jnp.asarray(0 if query_start is None else query_start, jnp.int32)
        return jnp.arange(T + S - 1, dtype=jnp.int32) - (T - 1) - start[..., None]

    def validate(self, B: int, H: int, T: int, S: int, K: int) -> None:
        """Raises ValueError unless the diagonals are [H, T+S-1] or [B, H, T+S-1]."""
        if self.diagonals.shape not in ((H, T + S - 1), (B, H, T + S - 1)):
            raise ValueError(
                f"ToeplitzBias.diagonals must be [H, T+S-1] = {[H, T + S - 1]} or with B = {B} in front; "
                f"got {list(self.diagonals.shape)}"
            )

    def dense(self, q: jax.Array, k: jax.Array, start: Index) -> jax.Array:
        """float32 [B or 1, H, T, S]."""
        T, S = q.shape[1], k.shape[1]
        diagonals = self.diagonals.astype(jnp.float32)
        if diagonals.ndim == 2:
            diagonals = diagonals[None]
        return skew(
            jnp.broadcast_to(diagonals[:, :, None], (*diagonals.shape[:2], T, T + S - 1)),
            S,
        )

    def block(self, t0: Index, T: int, s0: Index, S: int, num_queries: int) -> "ToeplitzBias":
        """The diagonals of T queries from index t0 (of `num_queries` in the call) and S keys from s0."""
        start = s0 - t0 + num_queries - T
        return ToeplitzBias(jax.lax.dynamic_slice_in_dim(self.diagonals, start, T + S - 1, axis=-1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RelativeKeyBias:
    """Distance embeddings of Shaw et al. (arXiv:1803.02155) and Huang et al. (arXiv:2009.13658), as in BERT.

    With E = embedding[p - s + P - 1] for the query at position p and the key at s, q.E is added to the scores before
    they are scaled, and with `key_term` ("relative_key_query") k.E too.

    Attributes:
      embedding: Float [2P-1, K]. p counts from the mask's `query_start`. A key P or more away takes the outermost
        embedding: a padded prompt or a cache may be longer than P, as long as tokens that see each other are not that
        far apart. Callers without padding must check the length themselves.
      key_term: Static bool.
      distances: None, or int32 [S], the p - s of every query, where positions in the arrays do not determine it: all
        queries at one position (beams of a beam search), keys in any order.

    Examples:
      >>> q = k = v = jax.random.normal(jax.random.key(0), (2, 16, 4, 8))
      >>> bias = pallas_kernels.RelativeKeyBias(jnp.zeros((2 * 16 - 1, 8)))
      >>> pallas_kernels.attention(q, k, v, bias=bias).shape
      (2, 16, 4, 8)
    """

    embedding: jax.Array
    key_term: bool = field(default=False, metadata={"static": True})
    distances: jax.Array | None = None
    before_scale: ClassVar[bool] = True

    def validate(self, B: int, H: int, T: int, S: int, K: int) -> None:
        """Raises ValueError where the embedding is not [2P-1, K] or the distances are not [S]."""
        if self.embedding.ndim != 2 or self.embedding.shape[1] != K or self.embedding.shape[0] % 2 == 0:
            raise ValueError(
                f"RelativeKeyBias.embedding must be [2P-1, K] with K = {K}; got {list(self.embedding.shape)}"
            )
        if self.distances is not None and self.distances.shape != (S,):
            raise ValueError(f"RelativeKeyBias.distances must be [S] = [{S}]; got {list(self.distances.shape)}")

    def dense(self, q: jax.Array, k: jax.Array, start: Index) -> jax.Array:
        """float32 [B, H, T, S] from q [B, T, H, K] and k [B, S, G, K]."""
        (_, T, H, _), S = q.shape, k.shape[1]
        P = (self.embedding.shape[0] + 1) // 2
        if self.distances is not None:
            E = jnp.take(
                self.embedding, jnp.clip(self.distances.astype(jnp.int32) + P - 1, 0, 2 * P - 2), axis=0
            ).astype(q.dtype)
            bias = jnp.einsum("bthk,sk->bhts", q, E, preferred_element_type=jnp.float32)
            if self.key_term:
                keys = jnp.einsum("bsgk,sk->bgs", k, E, preferred_element_type=jnp.float32)
                bias = bias + _repeat_heads(keys, H)[:, :, None]
            return bias
        # One embedding per diagonal.
        distance = query_positions(1, start) - jnp.arange(1 - T, S)
        E = jnp.take(self.embedding, jnp.clip(distance + P - 1, 0, 2 * P - 2), axis=0).astype(q.dtype)
        E = jnp.broadcast_to(E, (q.shape[0], *E.shape[1:]))
        bias = skew(jnp.einsum("bthk,bjk->bhtj", q, E, preferred_element_type=jnp.float32), S)
        if self.key_term and T == 1:  # one decoded token: the general form would compute S x S products instead of S
            keys = jnp.einsum("bsgk,bsk->bgs", k, E, preferred_element_type=jnp.float32)
            bias = bias + _repeat_heads(keys, H)[:, :, None]
        elif self.key_term:
            # The same shift with the roles of queries and keys exchanged, so the diagonals run the other way.
            keys = jnp.einsum("bsgk,bjk->bgsj", k, E[:, ::-1], preferred_element_type=jnp.float32)
            bias = bias + _repeat_heads(skew(keys, T).swapaxes(-1, -2), H)
        return bias

    def block(self, t0: Index, T: int, s0: Index, S: int, num_queries: int) -> "RelativeKeyBias":
        """Itself without distances: the block's mask has the offset of its queries and keys in `query_start`."""
        if self.distances is None:
            return self
        return replace(self, distances=jax.lax.dynamic_slice_in_dim(self.distances, s0, S))


Bias = DenseBias | ToeplitzBias | RelativeKeyBias
Biases = tuple[Bias, ...]


def as_tuple(bias: Bias | Biases | None) -> Biases:
    """The `bias` argument of the public functions as a tuple."""
    return bias if isinstance(bias, tuple) else () if bias is None else (bias,)
