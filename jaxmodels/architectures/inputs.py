"""From the arguments of a call to what the layers take: checks, embeddings, positions, encoder states, head masks."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.arrays import HeadMask, Hidden, PaddingMask, TokenIds
from jaxmodels.config import Config
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.inputs import AttentionInputs, PerLayer, cross_attention
from jaxmodels.messages import brief

_INT32 = np.iinfo(np.int32)


class TransformerInputs(TypedDict, total=False):
    """Arguments of `DecoderModel` and `EncoderModel` beside input_ids."""

    attention_mask: PaddingMask | None
    token_type_ids: TokenIds | None
    position_ids: TokenIds | None
    segment_ids: TokenIds | None
    head_mask: HeadMask | None
    inputs_embeds: Hidden | None
    encoder_hidden_states: Hidden | None
    encoder_attention_mask: PaddingMask | None
    cache: Cache | None
    output_attentions: bool | None
    output_hidden_states: bool | None


def is_concrete(*arrays) -> bool:
    """The values can be read (outside jit, on devices of this process), so a wrong one can be refused by name."""
    return not any(isinstance(a, jax.core.Tracer) or not getattr(a, "is_fully_addressable", True) for a in arrays)


def as_array(name: str, value):
    """Arrays unchanged; lists of numbers as a numpy array of the widest type, so that checks see their values.

    Raises:
      TypeError: several arrays, or values that are not numbers.
      ValueError: nested lists of different lengths.
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
                "(attention_mask=mask), and sequences are padded to one length and stacked: jnp.stack(sequences)"
            )
        if not is_concrete(*jax.tree.leaves(value)):
            return jnp.asarray(value)
    try:
        found = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} has sequences of one length, got {brief(value)}; pad them") from error
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
        raise ValueError(f"{name} has shape {shapes}, got {ids.shape}; a single sequence is [1,T]: ids[None]")
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


def as_batch(name: str, ids: jax.Array, batch: int, length: int) -> jax.Array:
    """ids [...,T] as [B,T], or as [1,T] where one sequence serves the whole batch.

    Raises:
      ValueError: another length, or another number of sequences.
    """
    ids_2d = ids.reshape(-1, ids.shape[-1])
    if ids_2d.shape not in ((batch, length), (1, length)):
        raise ValueError(
            f"{name} has shape {ids.shape}, expected {(batch, length)}, or {(1, length)} for the whole batch"
        )
    return ids_2d


def check_segments(segment_ids: Any, batch: int, length: int) -> jax.Array | None:
    """The segments int [B,T] of packed rows; None stays None.

    Raises:
      ValueError: another shape.
      TypeError: no integers.
    """
    if segment_ids is None:
        return None
    check_integers("segment_ids", segment_ids)
    return check_shape("segment_ids", segment_ids, (batch, length))


def positions_in_segments(segments: jax.Array) -> jax.Array:
    """The index of each token in its segment, int32 [B,T]; the tokens of a segment follow each other."""
    at = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], [(0, 0), (1, 0)])
    return at - jax.lax.cummax(jnp.where(begins, at, 0), axis=1)


def warn_of_unmasked_padding(ids: jax.Array, pad: int | None) -> None:
    """Warns where a sequence begins or ends with the pad id and there is no mask (docs/parity.md, C13)."""
    if pad is not None and is_concrete(ids) and (np.asarray(ids)[..., [0, -1]] == pad).any():
        warnings.warn(
            f"input_ids begin or end with the pad id {pad}, but there is no attention_mask: padding is read like text. "
            f"If {pad} is a token of the text too, pass a mask of ones",
            stacklevel=2,
        )


def embed_inputs(
    table: Callable[[jax.Array], jax.Array],
    config: Config,
    input_ids: Any,
    inputs_embeds: Any,
    ranks: tuple[int, ...] = (2,),
    prefix: str = "",
) -> tuple[jax.Array, tuple[int, ...]]:
    """Token embeddings [N,T,D] from either argument, and the leading shape of that argument (docs/parity.md, C13).

    Args:
      table: from ids to embeddings.
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
        raise ValueError(f"{prefix}inputs_embeds has shape {embeds.shape}, expected [B,T,{width}]")
    return embeds.reshape(-1, *embeds.shape[-2:]), embeds.shape[:-2]


def default_positions(length: int, cache: Cache | None, size: int, limit: str) -> jax.Array:
    """int32 [T]: positions counted from the start of the cache.

    Args:
      size: how many positions there are; limit: their name in the config.

    Raises:
      ValueError: more tokens than positions (where the cache is concrete; a traced one gives NaN states).
    """
    positions = jnp.arange(length) if cache is None else cache.positions(length)
    last = int(positions.max()) + 1 if cache is not None and is_concrete(positions) else length
    if last > size:
        raise ValueError(
            f"{last} tokens are more than the {size} positions of this model ({limit}); cut them: truncation=True in "
            "the tokenizer's call"
        )
    return positions


def optional_encoder_inputs(
    config: Config, x: jax.Array, states: Any, mask: Any, cache: Cache | None, base: AttentionInputs, initializing: bool
) -> AttentionInputs | None:
    """`encoder_inputs` of a family whose cross attention is an option of the config, and is skipped without states.

    Raises:
      ValueError: states or a mask where the config has no cross attention, or a wrong shape.
    """
    if not config.add_cross_attention:
        if states is not None or mask is not None:
            raise ValueError("encoder_hidden_states needs a config with add_cross_attention=True")
        return None
    if states is None and initializing:
        states = jnp.zeros((x.shape[0], 1, x.shape[2]), x.dtype)
    return encoder_inputs(x, states, mask, cache, base)


def encoder_inputs(
    x: jax.Array, states: Any, mask: Any, cache: Cache | None, base: AttentionInputs
) -> AttentionInputs | None:
    """What a decoder's cross attention is given; None where neither the call nor the cache has encoder states.

    Args:
      x: decoder states [B,T,D].
      states: [B,S,D], needed until the cache holds their projections.
      mask: [B,S] or [B,T,S].
      base: everything else that the attention is given.

    Raises:
      ValueError: a wrong shape.
    """
    batch, length, width = x.shape
    cached = None if cache is None else cache.source_length
    if states is not None:
        states = check_shape("encoder_hidden_states", states, (batch, None, width)).astype(x.dtype)
    if cached is not None:
        return cross_attention(mask, batch, length, cached, base=base)
    return None if states is None else cross_attention(mask, batch, length, states.shape[1], states, base)


def head_masks(config: Config, head_mask: Any) -> tuple[PerLayer | None, PerLayer | None]:
    """Head masks of the self and the cross attention of all layers, from a head_mask [H] or [L,H] (docs/parity.md, C6).

    Pruned heads are masked, so that they get no gradient either; pruning does not affect the cross attention.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if head_mask is None and not config.pruned_heads:
        return None, None
    kept = np.ones((layers, heads), np.float32)
    for layer, pruned in config.pruned_heads.items():
        kept[layer, list(pruned)] = 0.0
    if head_mask is None:
        return PerLayer(jnp.asarray(kept)), None
    head_mask = jnp.asarray(head_mask)
    if head_mask.shape not in ((heads,), (layers, heads)):
        raise ValueError(f"head_mask has shape {head_mask.shape}, expected {(heads,)} or {(layers, heads)}")
    return PerLayer(head_mask * kept), PerLayer(head_mask * np.ones_like(kept))


def layer_head_mask(name: str, mask: Any, layers: int, heads: int, *, shared: bool = False) -> PerLayer | None:
    """A head mask [L,H] of an encoder-decoder; shared: [H] holds for all layers, as in T5.

    Raises:
      ValueError: another shape.
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if shared and mask.shape == (heads,):
        mask = jnp.broadcast_to(mask, (layers, heads))
    if mask.shape != (layers, heads):
        raise ValueError(f"{name} has shape {mask.shape}, expected [layers, heads] = {(layers, heads)}")
    return PerLayer(mask)


def remove_pruned_heads(config: Config, attentions: Any) -> Any:
    """Attentions [L,B,H,T,S] without pruned heads, as in the reference: a tuple, since layers may differ in number."""
    if attentions is None or not config.pruned_heads:
        return attentions
    every = range(config.num_attention_heads)
    kept = [[h for h in every if h not in config.pruned_heads.get(i, ())] for i in range(config.num_hidden_layers)]
    return tuple(a[:, np.array(heads)] for a, heads in zip(attentions, kept, strict=True))


def refuse_cache(cache: Cache | None) -> None:
    """For heads that read whole sequences: their output has no field for a cache."""
    if cache is not None:
        raise ValueError("this head reads the whole sequence at once and takes no cache")
