"""Dense attention in XLA: the definition that every other implementation is tested against.

On a CPU it can run in microbatches, which bound the buffer of scores [B, H, T, S].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.bias import Biases
from pallas_kernels.dropout import drop_probabilities
from pallas_kernels.mask import MASK_VALUE, Mask
from pallas_kernels.sharding import Axes, attention_specs
from pallas_kernels.symbolic import has_symbolic_dims, is_certain

# Calls with at most this many queries are taken for decode steps (one token, several beams or candidates).
MAX_DECODE_QUERIES = 32
# Size of the scores of one microbatch. Larger buffers come from the operating system anew at every call (glibc's
# malloc), and touching them takes as long as computing them: benchmarks/README.md, "Kernels".
MICROBATCH_BYTES = 32 * 2**20
# Each microbatch has its part of the program, so their number is bounded.
MAX_MICROBATCHES = 16


def swap_length_and_heads(x: jax.Array) -> jax.Array:
    """[B, T, H, K] <-> [B, H, T, K]."""
    return x.swapaxes(1, 2)


def group_queries(x: jax.Array, G: int) -> jax.Array:
    """[B, H, T, N] -> [B, G, H/G * T, N]: the rows of all query heads that share a key head, one after the other."""
    B, H, T, N = x.shape
    return x.reshape(B, G, H // G * T, N)


def ungroup_queries(x: jax.Array, H: int) -> jax.Array:
    """[B, G, H/G * T, N] -> [B, H, T, N], the inverse of `group_queries`."""
    B, G, rows, N = x.shape
    return x.reshape(B, H, rows * G // H, N)


def attention_scores(
    q: jax.Array, k: jax.Array, biases: Biases, scale: jax.Array | float, start: jax.Array | int
) -> jax.Array:
    """Scaled dot products with the biases.

    Args:
      q: [B, H, T, K].
      k: [B, G, S, K].
      biases: Biases to add.
      scale: Factor on the dot products.
      start: Position of the first query among the keys, an int scalar or [B].

    Returns:
      float32 [B, H, T, S].
    """
    (_, H, T, _), G = q.shape, k.shape[1]
    grouped = group_queries(q, G)
    if is_certain(lambda: T <= MAX_DECODE_QUERIES):
        # Keep the length as the minor axis (the layout of the cache), else XLA:CPU transposes all keys at every step.
        result = jnp.einsum("bgtk,bgks->bgts", grouped, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    else:
        result = jnp.einsum("bgtk,bgsk->bgts", grouped, k, preferred_element_type=jnp.float32)
    result = ungroup_queries(result, H)
    for bias in biases:
        if bias.before_scale:
            result = result + bias.dense(swap_length_and_heads(q), swap_length_and_heads(k), start)
    result = result * scale
    for bias in biases:
        if not bias.before_scale:
            result = result + bias.dense(swap_length_and_heads(q), swap_length_and_heads(k), start)
    return result


def unnormalised_softmax(
    scores: jax.Array, visible: jax.Array | None, keys_over: Axes = None
) -> tuple[jax.Array, jax.Array]:
    """The numerator and the inverse denominator of `masked_softmax`.

    exp(MASK_VALUE - max) is exactly zero in any row with a visible key; a row without one is zeroed as a whole. That is
    one pass over [B, H, T, S] less than zeroing each probability.

    Args:
      scores: float32 [B, H, T, S].
      visible: bool, broadcastable to the scores, or None where all keys are visible.
      keys_over: Mesh axes over whose devices the keys are split: a row is that of all of them.

    Returns:
      Exponentials [B, H, T, S], exactly zero for keys that are not visible, and the factor [B, H, T, 1] by which a row
      adds up to one (zero in a row without a visible key: no weight, no gradient).
    """
    if visible is not None:
        scores = jnp.where(visible, scores, MASK_VALUE)
    row_max = max_over(jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)), keys_over)
    exponentials = jnp.exp(scores - row_max)
    any_visible: jax.Array | float = 1.0
    if visible is not None:
        any_visible = max_over(visible.any(axis=-1, keepdims=True).astype(scores.dtype), keys_over)
    return exponentials, any_visible / sum_over(exponentials.sum(axis=-1, keepdims=True), keys_over)


def max_over(x: jax.Array, axes: Axes) -> jax.Array:
    """The maximum over the devices of these mesh axes of a caller's `shard_map`; x where there are none."""
    return x if axes is None else jax.lax.pmax(x, axes)


def sum_over(x: jax.Array, axes: Axes) -> jax.Array:
    """The sum over the devices of these mesh axes of a caller's `shard_map`; x where there are none."""
    return x if axes is None else jax.lax.psum(x, axes)


def masked_softmax(scores: jax.Array, visible: jax.Array | None, keys_over: Axes = None) -> jax.Array:
    """Softmax over the visible keys; exactly zero elsewhere, also in a row without one (and in its gradient).

    Args:
      scores: float32 [B, H, T, S].
      visible: bool, broadcastable to the scores, or None where all keys are visible.
      keys_over: As in `unnormalised_softmax`.

    Returns:
      float32 [B, H, T, S].

    Examples:
      >>> scores, visible = jnp.zeros((1, 1, 2, 2)), jnp.array([[True, False], [True, True]])
      >>> print(pallas_kernels.masked_softmax(scores, visible)[0, 0])
      [[1.  0. ]
       [0.5 0.5]]
    """
    exponentials, factor = unnormalised_softmax(scores, visible, keys_over)
    return exponentials * factor


def weighted_sum(weights: jax.Array, v: jax.Array) -> jax.Array:
    """float32 weights [B, H, T, S] times values [B, G, S, Kv], float32 [B, H, T, Kv]."""
    grouped = group_queries(weights.astype(v.dtype), v.shape[1])
    out = jnp.einsum("bgts,bgsk->bgtk", grouped, v, preferred_element_type=jnp.float32)
    return ungroup_queries(out, weights.shape[1])


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    seed: jax.Array | None,
    rate: float,
    keys_over: Axes = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention with all scores in memory.

    Args:
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: Visibility rule.
      biases: Biases to add to the scores.
      scale: Factor on the dot products.
      seed: Dropout's seed, uint32 [2], or None for no dropout.
      rate: Dropout's rate.
      keys_over: Mesh axes of a caller's `shard_map` over whose devices the keys are split: the softmax is over the keys
        of all of them, and so is the output.

    Returns:
      The output [B, T, H, Kv] in q.dtype, and the weights float32 [B, H, T, S] after dropout.
    """
    (B, T), S = q.shape[:2], k.shape[1]
    visible = None if mask.allows_all else mask.dense(B, T, S)
    scores = attention_scores(swap_length_and_heads(q), swap_length_and_heads(k), biases, scale, mask.start)
    weights = masked_softmax(scores, visible, keys_over)
    if seed is not None:
        weights = drop_probabilities(weights, seed, rate, jnp.arange(T), jnp.arange(S))
    out = sum_over(weighted_sum(weights, swap_length_and_heads(v)), keys_over)
    return swap_length_and_heads(out).astype(q.dtype), weights


def microbatch_size(q: jax.Array, k: jax.Array, max_bytes: int = MICROBATCH_BYTES) -> int:
    """How many examples have float32 scores of at most `max_bytes`; more where that would be too many microbatches."""
    (B, T, H, _), S = q.shape, k.shape[1]
    return max(max_bytes // max(4 * H * T * S, 1), -(-B // MAX_MICROBATCHES))


def microbatched(
    attend: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    biases: Biases,
    max_bytes: int = MICROBATCH_BYTES,
) -> jax.Array:
    """Runs `attend(q, k, v, mask, biases)` on slices of the batch, to bound the buffer of scores.

    Args:
      attend: Returns [B, T, H, Kv].
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: Visibility rule.
      biases: Biases to add to the scores.
      max_bytes: Size of the float32 scores of a microbatch.

    Returns:
      [B, T, H, Kv].
    """
    arguments = q, k, v, mask, biases
    size = None if has_symbolic_dims(q, k) else microbatch_size(q, k, max_bytes)
    if size is None or size >= len(q):
        return attend(*arguments)
    # The specs tell which arrays have an axis of examples.
    *specs, _, _ = attention_specs("examples", None, *arguments, None, None)[0]

    def run(first: int) -> jax.Array:
        def slice_examples(x, spec):
            return x[first : first + size] if tuple(spec)[:1] == ("examples",) else x

        return attend(*jax.tree.map(slice_examples, arguments, tuple(specs)))

    return jnp.concatenate([run(first) for first in range(0, len(q), size)])


# The name that other packages import so far.
softmax = masked_softmax
