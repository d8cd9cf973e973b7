"""Keys of sampling: one of a call, or one for each prompt, so that a row draws whatever the rows beside it are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.messages import brief

THREEFRY = "threefry2x32"
# Words of a raw key: (implementations of which it may be, the likelier first).
_RAW = {2: (THREEFRY,), 4: ("rbg", "unsafe_rbg")}


def as_keys(key: Any) -> jax.Array:
    """Typed keys, [] or [B]. Raw ones, uint32 [...,2] or [...,4], are of JAX's default implementation where that has so
    many words, else of threefry or rbg.

    Raises:
      TypeError: something else.
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if not isinstance(key, jax.Array | np.ndarray) or key.dtype != np.uint32 or not 1 <= key.ndim <= 2:
        raise TypeError(f"key is jax.random.key(0), or one such key for each prompt; got {brief(key)}")
    if key.shape[-1] not in _RAW:
        raise TypeError(f"a raw key has 2 words or 4, got shape {key.shape}; make one with jax.random.key(0)")
    kinds, default = _RAW[key.shape[-1]], jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    return jax.random.wrap_key_data(jnp.asarray(key), impl=default if default in kinds else kinds[0])


def spread(key: Any, prompts: int, copies: int, rows: int) -> jax.Array:
    """A call's key as it is; or, where it has one for each prompt, [rows], each prompt's copies in succession.

    Rows that only fill a bucket get some key.

    Raises:
      TypeError: no key. ValueError: neither one key nor one for each prompt.
    """
    key = as_keys(key)
    if key.ndim == 0:
        return key
    if key.shape != (prompts,):
        raise ValueError(f"key is one key, or one for each of the {prompts} prompts; got keys of shape {key.shape}")
    row = np.minimum(np.arange(rows), prompts * copies - 1)
    return for_rows(jax.random.fold_in, key[row // copies], jnp.asarray(row % copies))


def row_keys(key: jax.Array, rows: int, step: jax.Array) -> jax.Array:
    """One key per row and step: what a row draws does not depend on the rows beside it or on padding.

    key: one, into which the number of the row is folded, or [rows] from `spread`.
    """
    own = key if key.ndim else for_rows(jax.random.fold_in, jnp.broadcast_to(key, (rows,)), jnp.arange(rows))
    return for_rows(jax.random.fold_in, own, jnp.broadcast_to(step, (rows,)))


def for_rows(draw: Callable[..., jax.Array], keys: jax.Array, *others: jax.Array) -> jax.Array:
    """draw(key, *others) of each row, as the row alone would have it."""
    if jax.random.key_impl(keys) == THREEFRY:
        return jax.vmap(draw)(keys, *others)
    # Under vmap the hardware's generators draw for all rows from the key of the first.
    return jax.lax.map(lambda row: draw(*row), (keys, *others))
