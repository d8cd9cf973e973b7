"""From logits to the next token: the likeliest, or a draw.

Reference: transformers/generation/logits_process.py (PARITY N3). The numbers are traced, so that another temperature,
k or p compiles nothing; only whether a warper is on is static.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.options import Options


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampler:
    """How a token is chosen.

    Attributes:
      key, temperature: of all draws; None for the likeliest token.
      top_k, top_p: scalars; None where the warper is off.
      candidates: how many of the likeliest tokens are looked at; None: the whole vocabulary. A bucket at or above
        top_k. Tokens beyond it are out even if they tie with the k-th, where the reference keeps every tie.
    """

    key: jax.Array | None = None
    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    candidates: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def make(cls, options: Options, key: jax.Array | None, vocabulary: int) -> "Sampler":
        if not options.do_sample:
            return cls()
        if key is None:
            raise ValueError("do_sample=True needs key=jax.random.key(...): the same key gives the same text")
        limited = 0 < options.top_k < vocabulary
        return cls(
            key=key,
            temperature=jnp.float32(options.temperature),
            top_k=jnp.int32(options.top_k) if limited else None,
            top_p=jnp.float32(options.top_p) if options.top_p < 1.0 else None,
            candidates=min(bucket(options.top_k), vocabulary) if limited else None,
        )

    def __call__(self, logits: jax.Array, step: jax.Array) -> jax.Array:
        """logits [B,V] float32 of step `step` -> token ids int32 [B]."""
        if self.key is None or self.temperature is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = logits / self.temperature
        # One key per row and step: what a row draws does not depend on the rows beside it or on padding.
        rows = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self.key, jnp.arange(logits.shape[0]))
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rows, step)
        if self.top_k is None and self.top_p is None:
            return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
        values, ids = jax.lax.top_k(logits, self.candidates or logits.shape[-1])
        choice = jax.vmap(jax.random.categorical)(keys, jnp.where(self._kept(values), values, -jnp.inf))
        return jnp.take_along_axis(ids, choice[:, None], axis=1)[:, 0].astype(jnp.int32)

    def _kept(self, values: jax.Array) -> jax.Array:
        """bool [B,N] for logits [B,N] in falling order."""
        kept = jnp.ones(values.shape, bool)
        if self.top_k is not None:
            kept = values >= jax.lax.dynamic_index_in_dim(values, self.top_k - 1, axis=1)
        if self.top_p is not None:
            probabilities = jax.nn.softmax(jnp.where(kept, values, -jnp.inf), axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            kept = kept & ((before < self.top_p) | (jnp.arange(values.shape[1]) == 0))
        return kept
