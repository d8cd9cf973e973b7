"""Full-row attention on a TPU, for keys that fit into VMEM at once (up to 2048): the entry point and its gradient."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from pallas_kernels.base2 import LOG2E, MIN_BIAS
from pallas_kernels.bias import Biases, ToeplitzBias, skew
from pallas_kernels.derivatives import named_residuals
from pallas_kernels.kernel_call import has_common_dtype, round_up
from pallas_kernels.mask import MASK_VALUE, Mask
from pallas_kernels.sharding import Axes, vary_alike
from pallas_kernels.tpu.full_row_backward import backward
from pallas_kernels.tpu.full_row_forward import FullRowOperands, FullRowPlan, forward
from pallas_kernels.tpu.tiles import LANES, VMEM_LIMIT_BYTES, FullRowTilings, full_row_tilings, to_length_minor

MAX_LENGTH = 2048
MAX_HEAD_DIM = 256
# A dense bias and its gradient are in VMEM as a whole, twice each for the double buffering.
MAX_BIAS_ELEMENTS = 2**20
# Bytes of a step's query heads that share a key head: half of what a kernel may use.
MAX_GROUP_BYTES = VMEM_LIMIT_BYTES // 2
DTYPES = ("bfloat16", "float32")


def unsupported_reason(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases) -> str | None:
    """Why these kernels do not support a call of `attend` with these arguments; None where they do."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not has_common_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; got {q.dtype}, {k.dtype} and {v.dtype}"
    if mask.window is not None:
        return "the full-row kernel does not support a window"
    if max(T, S) > MAX_LENGTH:
        return f"the full-row kernel supports lengths up to {MAX_LENGTH}; got T = {T}, S = {S}"
    if max(K, Kv) > MAX_HEAD_DIM:
        return f"the head width must be at most {MAX_HEAD_DIM}; got K = {K}, Kv = {Kv}"
    toeplitz = _single_toeplitz(biases)
    if biases and toeplitz is None and T * S > MAX_BIAS_ELEMENTS:
        return f"a dense bias may have at most T * S = {MAX_BIAS_ELEMENTS}; got {T} * {S} = {T * S}"
    return None


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    random_bits: jax.Array | None,
    rate: float,
    keys_over: Axes = None,
    tilings: FullRowTilings | None = None,
) -> jax.Array:
    """Attention by the full-row kernels, differentiable with respect to q, k, v and the biases.

    Args:
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: Visibility rule without a window.
      biases: Biases to add to the scores.
      scale: Factor on the dot products.
      random_bits: uint32 [B, H, 3], the dropout bits (`dropout.dropout_bits`), or None.
      rate: Dropout's rate.
      keys_over: As in `reference.attend`.
      tilings: Tile sizes; None for those of the chip.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    (B, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    plans = _plans(q, v, mask, biases, rate, tilings or full_row_tilings(K))
    lengths, widths = (round_up(T, LANES), round_up(S, LANES)), (round_up(K, 16), round_up(Kv, 16))
    bias, toeplitz = None, _single_toeplitz(biases)
    if toeplitz is not None:
        bias = _toeplitz_tiles(plans[0].tiling.queries, toeplitz, T, S)
    elif biases:
        bias = _dense_bias(q, k, biases, scale, mask)
    start = None
    if mask.causal and mask.query_start is not None:
        start = jnp.broadcast_to(jnp.asarray(mask.query_start, jnp.int32), (B,))
    operands = FullRowOperands(
        q=to_length_minor(q.astype(jnp.float32) * (scale * LOG2E), widths[0], lengths[0]).astype(q.dtype),
        k=to_length_minor(k, widths[0], lengths[1]),
        v=to_length_minor(v, widths[1], lengths[1]),
        key_bias=_key_bias(mask, B, T, S, lengths[1]),
        bias=bias,
        random_bits=None if random_bits is None else random_bits.reshape(-1),
        start=start,
        query_segments=_segments(mask.query_segments, lengths[0]),
        key_segments=_segments(mask.key_segments, lengths[1]),
    )
    out = _full_row((*plans, keys_over), operands)
    return out[:, :, :Kv, :T].transpose(0, 3, 1, 2)


def _plans(
    q: jax.Array, v: jax.Array, mask: Mask, biases: Biases, rate: float, tilings: FullRowTilings
) -> tuple[FullRowPlan, FullRowPlan]:
    """The plans of the forward and of the backward pass."""
    H, G, toeplitz = q.shape[2], v.shape[2], _single_toeplitz(biases) is not None
    forward = tilings.forward
    backward = tilings.backward_causal if mask.causal else tilings.backward_unmasked
    if toeplitz:  # its distinct tiles are square, and the same in both passes
        forward = backward = forward._replace(keys=forward.queries)
    heads = 1 if biases and not toeplitz else _heads_per_step(q, v, bool(biases))
    return (
        FullRowPlan(mask.causal, toeplitz, rate, heads, H // G, forward),
        FullRowPlan(mask.causal, toeplitz, rate, heads, H // G, backward),
    )


def _heads_per_step(q: jax.Array, v: jax.Array, biased: bool) -> int:
    """Query heads of a grid step: whole groups that share a key head, or an equal part of one.

    A step costs about as much as a tile of 256 x 256, so heads with short rows share one. Heads that share a key head
    do where they fit into VMEM, as that reads keys and writes their gradients once for all.
    """
    (_, T, H, K), (S, G, Kv) = q.shape, v.shape[1:]
    group, pairs = H // G, T * S
    bytes_per_head = 4 * T * (K + Kv) * q.dtype.itemsize  # queries, outputs and their gradients, two of each

    def is_suitable(n):
        if H % n or (group % n and n % group):
            return False
        return n == 1 or n * pairs <= 2**19 or (n <= group and not biased and n * bytes_per_head <= MAX_GROUP_BYTES)

    return max(filter(is_suitable, range(1, H + 1)))


def _single_toeplitz(biases: Biases) -> ToeplitzBias | None:
    """The only bias where it is a Toeplitz one, the same for all examples; else None."""
    if len(biases) == 1 and isinstance(biases[0], ToeplitzBias) and biases[0].diagonals.ndim == 2:
        return biases[0]
    return None


def _key_bias(mask: Mask, B: int, T: int, S: int, length: int) -> jax.Array | None:
    """float32 [B, 1, length], MASK_VALUE at padding; None where no query could see any."""
    valid = mask.key_valid
    if valid is None and (length == S or (mask.causal and mask.query_start is None and T <= S)):
        return None
    valid = jnp.ones((B, S), bool) if valid is None else valid
    valid = jnp.pad(valid, [(0, 0), (0, length - S)])
    return jnp.where(valid, 0.0, MASK_VALUE).astype(jnp.float32)[:, None]


def _segments(segments: jax.Array | None, length: int) -> jax.Array | None:
    """float32 [B, 1, length]; ids are exact up to 2**24."""
    if segments is None:
        return None
    return jnp.pad(segments.astype(jnp.float32), [(0, 0), (0, length - segments.shape[1])])[:, None]


def _dense_bias(q: jax.Array, k: jax.Array, biases: Biases, scale: jax.Array | float, mask: Mask) -> jax.Array:
    """The sum of all biases, transposed: float32 [B or 1, H or 1, S, T], padded to whole registers."""
    total = jnp.zeros((), jnp.float32)
    for bias in biases:
        term = bias.dense(q, k, mask.start)
        total = total + (term * scale if bias.before_scale else term)
    T, S = q.shape[1], k.shape[1]
    total = jnp.broadcast_to(jnp.maximum(total * LOG2E, MIN_BIAS), (*total.shape[:2], T, S)).swapaxes(2, 3)
    return jnp.pad(total, [(0, 0), (0, 0), (0, round_up(S, LANES) - S), (0, round_up(T, LANES) - T)])


def _toeplitz_tiles(size: int, bias: ToeplitzBias, T: int, S: int) -> jax.Array:
    """The distinct tiles of the bias, float32 [H, N, size, size], keys before queries.

    A tile depends on the distance between its first query and its first key alone, so there are as many as blocks on
    two sides of the score matrix.
    """
    before, after = (math.ceil(round_up(n, LANES) / size) - 1 for n in (S, T))
    diagonals = jnp.maximum(bias.diagonals.astype(jnp.float32) * LOG2E, MIN_BIAS)
    # diagonals[s - t + T - 1]; tile n has the first query (n - before) * size after the first key.
    edge = (after + 1) * size
    padded = jnp.pad(diagonals, [(0, 0), (edge, (before + 1) * size)])
    starts = [edge + T - size - (n - before) * size for n in range(before + after + 1)]
    windows = jnp.stack([padded[:, at : at + 2 * size - 1] for at in starts], axis=1)
    reversed_rows = jnp.broadcast_to(windows[..., None, ::-1], (*windows.shape[:2], size, 2 * size - 1))
    return skew(reversed_rows, size)


# Of the forward and of the backward pass, and the mesh axes over whose devices the keys are split.
_Plans = tuple[FullRowPlan, FullRowPlan, Axes]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _full_row(plans: _Plans, operands: FullRowOperands) -> jax.Array:
    return _merge(*forward(plans[0], operands), plans[2])[0]


def _merge(out: jax.Array, statistics: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """The output and the statistics of the keys of all devices, from those of each one's keys.

    With these the backward kernel computes the probabilities and gradients of a device's keys among all keys.
    """
    if axes is None:
        return out, statistics
    row_max, inverse_sum = statistics[:, :, :1], statistics[:, :, 1:]
    common_max = jax.lax.pmax(row_max, axes)
    sees = inverse_sum > 0
    exp_sum = jnp.where(sees, jnp.exp2(row_max - common_max) / jnp.where(sees, inverse_sum, 1.0), 0.0)
    total = jax.lax.psum(exp_sum, axes)
    inverse = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)
    merged = jax.lax.psum(out.astype(jnp.float32) * (exp_sum * inverse), axes).astype(out.dtype)
    return merged, jnp.concatenate([common_max, inverse], axis=2)


def _forward(plans: _Plans, operands):
    # With symbolic zeros every leaf tells whether its gradient is wanted; the residuals' structure records it.
    bias_gradient = () if operands.bias is not None and operands.bias.perturbed else None
    values = jax.tree.map(lambda leaf: leaf.value, operands, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
    out, statistics = named_residuals(_merge(*forward(plans[0], values), plans[2]))
    return out, (values, out, statistics, bias_gradient)


def _backward(plans: _Plans, residuals, do):
    operands, out, statistics, bias_gradient = residuals
    if isinstance(do, SymbolicZero):
        do = jnp.zeros(out.shape, out.dtype)
    out, statistics, do, *_ = vary_alike((out, statistics, do, operands))
    grads = backward(plans[1], operands, out, statistics, do, bias_gradient is not None)
    dbias = grads.get("dbias")
    if dbias is not None and dbias.shape != operands.bias.shape:
        dbias = dbias.sum(axis=1, keepdims=True)
    return (FullRowOperands(grads["dq"], grads["dk"], grads["dv"], None, dbias, None, None, None, None),)


_full_row.defvjp(_forward, _backward, symbolic_zeros=True)
