"""Checks on what a model is called with, and the first steps that all models share."""

import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.config import Config
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.masks import cross_visibility
from jaxmodels.messages import brief

_INT32 = np.iinfo(np.int32)


def is_concrete(*arrays) -> bool:
    """Values can be looked at (outside jit, on devices of this process), so a wrong one can be refused by name."""
    return not any(isinstance(a, jax.core.Tracer) or not getattr(a, "is_fully_addressable", True) for a in arrays)


def as_array(name: str, value):
    """An array as it is; numbers in lists as numpy's, in which nothing is cut off yet.

    Raises:
      TypeError: several arrays, or no numbers.
      ValueError: rows of different lengths.
    """
    if isinstance(value, jax.Array | np.ndarray):
        return value
    if isinstance(value, Mapping):
        raise TypeError(
            f"{name} is an array, got a {type(value).__name__} of {', '.join(map(str, value))}; what a tokenizer "
            "returns goes in as keywords: model.apply(variables, **batch)"
        )
    if isinstance(value, list | tuple):
        if any(getattr(member, "shape", ()) != () for member in value):
            raise TypeError(
                f"{name} is one array, got a {type(value).__name__} of {len(value)} arrays; other arguments go by name "
                "(attention_mask=mask), and rows are padded to one length and put together: jnp.stack(rows)"
            )
        if not is_concrete(*jax.tree.leaves(value)):
            return jnp.asarray(value)
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} has rows of one length, got {brief(value)}; pad them") from error
    if found.dtype.kind not in "biuf" and not jnp.issubdtype(found.dtype, jnp.number):
        raise TypeError(f"{name} holds numbers, got {brief(value)}")
    return found


def check_integers(name: str, ids) -> None:
    """Raises TypeError where ids are not integers, ValueError where one needs more than int32, which would wrap."""
    ids = as_array(name, ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} holds integers, got {ids.dtype}")
    if ids.dtype.itemsize >= 4 and ids.dtype != np.int32 and ids.size and is_concrete(ids):
        values = np.asarray(ids)
        low, high = int(values.min()), int(values.max())
        if low < _INT32.min or high > _INT32.max:
            raise ValueError(f"{name} holds {low if low < _INT32.min else high}, which is no int32")


def check_numbers(name: str, array) -> None:
    """Raises TypeError where an array holds no real numbers or bools, ValueError as `check_integers`."""
    array = as_array(name, array)
    if jnp.issubdtype(array.dtype, jnp.integer):
        check_integers(name, array)
    elif not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype == bool):
        raise TypeError(f"{name} holds numbers, got {array.dtype}")


def check_mask(name: str, mask) -> None:
    """Raises ValueError where a mask holds something else than 0 and 1: it would be read by "is it 0", and the additive
    masks of the reference's inner layers (0 for what is seen) as their opposite."""
    check_numbers(name, mask)
    mask = as_array(name, mask)
    if mask.dtype == bool or not mask.size or not is_concrete(mask):
        return
    values = np.asarray(mask)
    wrong = values[(values != 0) & (values != 1)]
    additive = wrong.size > 0 and bool((wrong < 0).any())
    if additive or (jnp.issubdtype(values.dtype, jnp.floating) and not values.any()):
        raise ValueError(
            f"{name} holds 1 where there is a token and 0 where there is padding, got "
            f"{'an additive mask with ' + str(wrong.min()) if additive else 'zeros alone'}; "
            "of an additive mask, that is mask == 0"
        )
    if wrong.size:
        hint = "; global tokens have a mask of their own, LED's global_attention_mask" if wrong[0] == 2 else ""
        raise ValueError(f"{name} holds 0 and 1, got {wrong[0]}{hint}")


def check_ids(name: str, ids: jax.Array, size: int, what: str, ranks: tuple[int, ...] = (2,)) -> jax.Array:
    """ids as an int array of an allowed rank, all inside [0, size).

    Raises:
      ValueError: wrong rank, no token, or an id outside the table (under jit such an id gives NaN).
      TypeError: not integers.
    """
    check_integers(name, ids)
    ids = jnp.asarray(ids)
    if ids.ndim not in ranks:
        shapes = " or ".join(("[T]", "[B,T]", "[B,choices,T]")[r - 1] for r in ranks)
        raise ValueError(f"{name} has shape {shapes}, got {ids.shape}; one text alone is [1,T]: ids[None]")
    if ids.size == 0:
        raise ValueError(f"{name} is empty: shape {ids.shape}; give at least one token per row")
    if is_concrete(ids):
        values = np.asarray(ids)  # not jnp: inside a jit even a constant's minimum would be traced
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise ValueError(f"{name} holds ids from {low} to {high}, but {what} has {size} entries (0 to {size - 1})")
    return ids


def check_shape(name: str, array: jax.Array, expected: tuple[int | None, ...]) -> jax.Array:
    """The array, if it has the expected shape (None: any size)."""
    array = jnp.asarray(array)
    fits = array.ndim == len(expected) and all(e in (None, n) for e, n in zip(expected, array.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}, expected {expected} (None: any size)")
    return array


def as_rows(name: str, ids: jax.Array, batch: int, length: int) -> jax.Array:
    """ids [...,T] as [B,T], or as [1,T] where one row serves all.

    Raises:
      ValueError: another length, or another number of rows.
    """
    rows = ids.reshape(-1, ids.shape[-1])
    if rows.shape not in ((batch, length), (1, length)):
        raise ValueError(
            f"{name} has one row of {length} for each of the {batch} rows, or one for all; got {ids.shape}"
        )
    return rows


def warn_of_unmasked_padding(ids: jax.Array, pad: int | None) -> None:
    """Says so where a text begins or ends with the pad id and no mask was given (docs/parity.md, C13)."""
    if pad is not None and is_concrete(ids) and (np.asarray(ids)[..., [0, -1]] == pad).any():
        warnings.warn(
            f"input_ids begin or end with the pad id {pad}, but there is no attention_mask: padding is read like text. "
            f"If {pad} is a token of the text too, pass a mask of ones",
            stacklevel=2,
        )


def words(
    table: Callable[[jax.Array], jax.Array],
    config: Config,
    input_ids,
    inputs_embeds,
    ranks: tuple[int, ...] = (2,),
    prefix: str = "",
) -> tuple[jax.Array, tuple[int, ...]]:
    """Word embeddings [N,T,D] from either argument, and the leading shape that the caller gave (docs/parity.md, C13).

    Args:
      table: the word embeddings.
      ranks: allowed ranks of input_ids; inputs_embeds has one more.
      prefix: of both names, in messages.

    Raises:
      ValueError: both arguments or none, or a wrong shape; see `check_ids` too.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError(f"give either {prefix}input_ids or {prefix}inputs_embeds, one of the two")
    if input_ids is not None:
        ids = check_ids(f"{prefix}input_ids", input_ids, config.vocab_size, "the vocabulary", ranks)
        return table(ids.reshape(-1, ids.shape[-1])), ids.shape[:-1]
    width = config.hidden_size
    embeds = jnp.asarray(inputs_embeds)
    if embeds.ndim - 1 not in ranks or embeds.shape[-1] != width or embeds.size == 0:
        raise ValueError(f"{prefix}inputs_embeds has shape [B,T,{width}], got {embeds.shape}")
    return embeds.reshape(-1, *embeds.shape[-2:]), embeds.shape[:-2]


def encoder_source(
    config: Config, x: jax.Array, states, mask, cache: Cache | None, *, initializing: bool
) -> tuple[jax.Array | None, dict]:
    """Encoder states [B,S,D] and the keywords of a layer that say what cross attention sees of them.

    Without encoder states, here or in the cache, the cross attention is skipped, as in the reference.

    Raises:
      ValueError: a config without cross attention, or a wrong shape.
    """
    if not config.add_cross_attention:
        if states is not None or mask is not None:
            raise ValueError("encoder_hidden_states needs a config with add_cross_attention=True")
        return None, {}
    batch, length, width = x.shape
    if states is None and initializing:
        states = jnp.zeros((batch, 1, width), x.dtype)
    kept = cache is not None and cache.layers[0].cross is not None
    if states is None and not kept:
        return None, {}
    if states is not None:
        states = check_shape("encoder_hidden_states", states, (batch, None, width)).astype(x.dtype)
    keys = states.shape[1] if states is not None else cache.layers[0].cross.length
    return states, cross_visibility(mask, batch, length, keys)


def refuse_cache(options: dict) -> None:
    """For heads that read whole texts: their output has no field for a cache, and dropping one would be silent."""
    if options.get("cache") is not None:
        raise ValueError("this head reads the whole text at once and takes no cache")
