"""What a model captured for the branches of a text, put as a row for each branch."""

import jax
import jax.numpy as jnp

from jaxmodels.layers.cache import Cache


def per_row(captured: dict[str, jax.Array], cache: Cache, prompt: int) -> dict[str, jax.Array]:
    """Captured for one token of each of K branches -> the same for B*K rows of one token.

    Args:
      captured: hidden_states [L,B,K,D], attentions [L,B,H,K,S], cross_attentions [L,B,H,K,S'].
      cache: after these tokens. prompt: the slots before the branches.

    Returns:
      [L,N,1,D] and [L,N,H,1,S]; S counts the slots of a row alone: the prompt's, and one for each of its tokens.
    """
    branches = cache.branches
    if branches is None:
        return captured
    B, K, S = branches.seen.shape
    result = {}
    for name, array in captured.items():
        rows = array.swapaxes(2, 3) if array.ndim == 5 else array  # [L,B,K,...]
        if name in ("attentions", "decoder_attentions"):
            rows = _own_slots(rows, branches.seen, prompt)
        rows = rows.reshape(rows.shape[0], B * K, *rows.shape[3:])
        result[name] = rows[:, :, None] if rows.ndim == 3 else rows[:, :, :, None]
    return result


def _own_slots(weights: jax.Array, seen: jax.Array, prompt: int) -> jax.Array:
    """[L,B,K,H,S] -> [L,B,K,H,prompt+steps]: of each step's K slots the one that the branch sees."""
    B, K, _ = seen.shape
    own = jnp.argmax(seen[:, :, prompt:].reshape(B, K, -1, K), axis=-1)
    later = weights[..., prompt:].reshape(*weights.shape[:-1], -1, K)
    later = jnp.take_along_axis(later, own[None, :, :, None, :, None], axis=-1)[..., 0]
    return jnp.concatenate([weights[..., :prompt], later], axis=-1)
