"""Sequence parallelism: attention whose keys are split along the length over the devices of some mesh axes.

Each device holds a stretch of consecutive tokens and calls attention on arrays of its own:

- Under a window, a query sees its stretch and the ends of the neighbouring ones, which the neighbours send (a halo).
  Global keys come as additional keys, each from the device that has it (`windowed`).
- Without a window, as in cross attention, every device attends with all queries to its stretch of the keys, and the
  softmax is normalised over all devices (`merged`).

Dropout takes another mask on every device, so it depends on their number.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pallas_kernels.bias import Biases, DenseBias
from pallas_kernels.dropout import Dropout
from pallas_kernels.mask import Mask
from pallas_kernels.sharding import (
    Axes,
    PartitionAxes,
    bias_spec,
    num_devices,
    restrict,
    tokens_per_device,
    unmapped_axes,
    vary_alike,
)


def is_split(split: PartitionAxes | None) -> bool:
    """Whether the keys' length is split over several devices."""
    return split is not None and num_devices(split.length) > 1


def choose(
    q: jax.Array, k: jax.Array, mask: Mask, biases: Biases, split: PartitionAxes | None, return_weights: bool
) -> Callable[..., Any] | None:
    """How a call of `attention` is split along the length: `windowed` or `merged`.

    Returns:
      The function; None where the length is not split, or is left to the compiler: causal calls without a window, those
      with a window and biases or weights to return, and biases other than `DenseBias`.
    """
    if not is_split(split):
        return None
    if mask.window is None:
        plain = not mask.causal and all(isinstance(bias, DenseBias) for bias in biases)
        return partial(merged, return_weights=return_weights) if plain else None
    same = mask.query_start is None and q.shape[1] == k.shape[1]
    columns = mask.key_global is None or (mask.global_at is not None and not mask.causal)
    return windowed if same and columns and not biases and not return_weights else None


def windowed(
    attend: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: Any,
    dropout: Dropout | None,
    split: PartitionAxes,
) -> jax.Array:
    """Attention under a window, of stretches of queries over those of keys, their halos and the global keys.

    Args:
      attend: attend(q, k, v, mask=, biases=, scale=, dropout=) of local arrays.
      q, k, v, mask, scale, dropout, split: As in `attention`.
      biases: Empty.

    Returns:
      [B, T, H, Kv] in q.dtype.

    Raises:
      ValueError: The devices do not divide the length, or a stretch is shorter than the window to one side.
    """
    axes = _restricted(q, k, split)
    assert mask.window is not None
    left, right = mask.window[0], 0 if mask.causal else mask.window[1]
    stretch = tokens_per_device(k.shape[1], axes.length)
    if stretch < max(left, right):
        raise ValueError(
            f"the rules split the length over {num_devices(axes.length)} devices, so each has {stretch} of "
            f"{k.shape[1]} tokens; under a window it must have as many as a token sees to one side, "
            f"{max(left, right)}: split the length over fewer devices, or pad the sequences"
        )

    def local(q, k, v, mask, scale, key):
        first = jax.lax.axis_index(axes.length) * stretch
        seen = jnp.ones(k.shape[:2], bool) if mask.key_valid is None else mask.key_valid
        in_window = seen if mask.key_global is None else seen & ~mask.key_global
        keys, values, valid = (_with_halo(x, left, right, axes) for x in (k, v, in_window))
        # Positions are relative to the first key of the halo.
        inside = Mask(
            causal=mask.causal,
            window=(left, right),
            key_valid=valid,
            query_start=left,
            query_segments=mask.query_segments,
            key_segments=None if mask.key_segments is None else _with_halo(mask.key_segments, left, right, axes),
        )
        if mask.global_at is not None:
            shared = [_gather(x, mask.global_at - first, axes) for x in (k, v, seen)]
            count, span = mask.global_at.shape[1], valid.shape[1]
            keys, values, valid = (
                jnp.concatenate(pair, axis=1) for pair in zip((keys, values, valid), shared, strict=True)
            )
            positions = jnp.arange(span, span + count, dtype=jnp.int32)
            inside = replace(
                inside,
                key_valid=valid,
                key_global=jnp.broadcast_to(jnp.arange(span + count) >= span, valid.shape),
                global_at=jnp.broadcast_to(positions, (len(valid), count)),
            )
        dropped = _of_device(dropout, key, axes)
        return attend(q, keys, values, mask=inside, biases=biases, scale=scale, dropout=dropped)

    array = P(axes.batch, axes.length, axes.heads, None)
    return _mapped(local, (array, array, array, _mask_specs(mask, axes, queries=axes.length), P(), P()), array)(
        q, k, v, mask, scale, None if dropout is None else dropout.key
    )


def merged(
    attend: Callable[..., Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: Any,
    dropout: Dropout | None,
    split: PartitionAxes,
    return_weights: bool,
) -> Any:
    """Attention of all queries over stretches of keys, with one softmax over all devices.

    Args:
      attend: attend(q, k, v, mask=, biases=, scale=, dropout=, keys_over=) of local arrays.
      q, k, v, mask, biases, scale, dropout, split, return_weights: As in `attention`.

    Returns:
      As `attention`.

    Raises:
      ValueError: The devices do not divide the number of keys.
    """
    axes = _restricted(q, k, split)
    tokens_per_device(k.shape[1], axes.length)

    def local(q, k, v, mask, biases, scale, key):
        q, k, v, mask, biases, scale = vary_alike((q, k, v, mask, biases, scale))
        dropped = _of_device(dropout, key, axes)
        return attend(q, k, v, mask=mask, biases=biases, scale=scale, dropout=dropped, keys_over=axes.length)

    queries, keys = P(axes.batch, None, axes.heads, None), P(axes.batch, axes.length, axes.heads, None)
    weights = P(axes.batch, axes.heads, None, axes.length)
    mask_specs = _mask_specs(mask, axes, queries=None)
    specs = (queries, keys, keys, mask_specs, tuple(_bias_specs(bias, axes) for bias in biases), P(), P())
    return _mapped(local, specs, (queries, weights) if return_weights else queries)(
        q, k, v, mask, biases, scale, None if dropout is None else dropout.key
    )


def _restricted(q: jax.Array, k: jax.Array, split: PartitionAxes) -> PartitionAxes:
    """The axes of the mesh that are not manual; what they do not divide is computed on every device."""
    batch, heads, length = (restrict(names, unmapped_axes()) for names in split)
    batch = None if len(q) % num_devices(batch) else batch
    return PartitionAxes(batch, None if k.shape[2] % num_devices(heads) else heads, length)


def _mapped(function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=set(unmapped_axes()))


def _mask_specs(mask: Mask, axes: PartitionAxes, queries: Axes) -> Mask:
    """queries: the axes that split their length."""
    keys = P(axes.batch, axes.length)
    specs: dict[str, Any] = {
        "key_valid": keys,
        "key_global": keys,
        "global_at": P(axes.batch, None),
        "query_start": P(axes.batch if jnp.ndim(mask.start) else None),
        "query_segments": P(axes.batch, queries),
        "key_segments": keys,
    }
    return replace(mask, **{name: spec for name, spec in specs.items() if getattr(mask, name) is not None})


def _bias_specs(bias: Any, axes: PartitionAxes) -> Any:
    def along_keys(spec: P, values: jax.Array) -> P:
        return P(*spec[:-1], axes.length if values.shape[-1] > 1 else None)

    return jax.tree.map(along_keys, bias_spec(bias, axes.batch, axes.heads), bias)


def _of_device(dropout: Dropout | None, key: jax.Array | None, axes: PartitionAxes) -> Dropout | None:
    if dropout is None or key is None:
        return None
    names = tuple(name for each in axes for name in each or ())
    return Dropout(dropout.rate, jax.random.fold_in(key, jax.lax.axis_index(names)))


def _with_halo(x: jax.Array, left: int, right: int, axes: PartitionAxes) -> jax.Array:
    """[B, stretch, ...] with the last `left` rows of the stretch before and the first `right` of the one after.

    At the ends of the sequence these are zeros, or False.
    """
    count = jax.lax.axis_size(axes.length)
    parts = [x]
    if left:
        forwards = [(i, i + 1) for i in range(count - 1)]
        parts.insert(0, jax.lax.ppermute(x[:, -left:], axes.length, forwards))
    if right:
        backwards = [(i + 1, i) for i in range(count - 1)]
        parts.append(jax.lax.ppermute(x[:, :right], axes.length, backwards))
    return jnp.concatenate(parts, axis=1)


def _gather(x: jax.Array, at: jax.Array, axes: PartitionAxes) -> jax.Array:
    """The rows [B, N, ...] of x [B, stretch, ...] at positions relative to the stretch, from the device that has them.

    Zeros, or False, where no device has them.
    """
    here = (at >= 0) & (at < x.shape[1])
    trailing = (1,) * (x.ndim - 2)
    rows = jnp.take_along_axis(x, jnp.clip(at, 0, x.shape[1] - 1).reshape(*at.shape, *trailing), axis=1)
    rows = jnp.where(here.reshape(*at.shape, *trailing), rows, 0)
    if x.dtype == jnp.bool_:
        return jax.lax.psum(rows.astype(jnp.int32), axes.length) > 0
    return jax.lax.psum(rows, axes.length)
