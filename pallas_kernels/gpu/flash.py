"""Flash attention on a GPU with windows, global keys, biases and dropout: the entry point and its gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from pallas_kernels.base2 import LOG2E, MIN_BIAS
from pallas_kernels.bias import Biases, ToeplitzBias
from pallas_kernels.derivatives import named_residuals
from pallas_kernels.gpu.flash_backward import BackwardInputs, compute_delta, grad_bias, grad_keys_values, grad_queries
from pallas_kernels.gpu.flash_forward import FlashGlobalKV, FlashOperands, FlashPlan, forward
from pallas_kernels.gpu.tiles import FlashTilings, flash_tilings, next_power_of_two
from pallas_kernels.kernel_call import has_common_dtype, round_up
from pallas_kernels.mask import MASK_VALUE, Mask

MAX_HEAD_DIM = 128
MAX_GLOBAL_KEYS = 512
DTYPES = ("bfloat16", "float16", "float32")
# Positions and offsets into a bias are int32.
MAX_WINDOW = 2**30
MAX_BIAS_ELEMENTS = 2**31


def unsupported_reason(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases) -> str | None:
    """Why these kernels do not support a call of `attend` with these arguments; None where they do."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not has_common_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; got {q.dtype}, {k.dtype} and {v.dtype}"
    if max(K, Kv) > MAX_HEAD_DIM:
        return f"the head width must be at most {MAX_HEAD_DIM}; got K = {K}, Kv = {Kv}"
    if biases and _single_toeplitz(biases) is None and round_up(T, 128) * round_up(S, 128) >= MAX_BIAS_ELEMENTS:
        return f"a dense bias may have at most {MAX_BIAS_ELEMENTS} elements per head; got T * S = {T * S}"
    if mask.window is None or mask.key_global is None:
        return None
    if biases:
        return "a window with global keys does not support a bias"
    if mask.global_at is None:
        return "the window requires the positions of the global keys; pass Mask.global_at beside key_global"
    if mask.global_at.shape[1] > MAX_GLOBAL_KEYS:
        return (
            f"at most {MAX_GLOBAL_KEYS} global keys are supported beside a window; global_at has "
            f"{mask.global_at.shape[1]}"
        )
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
    tilings: FlashTilings | None = None,
) -> jax.Array:
    """Attention by the flash kernels, differentiable with respect to q, k, v and the biases.

    Args:
      q: [B, T, H, K].
      k: [B, S, G, K].
      v: [B, S, G, Kv].
      mask: Visibility rule.
      biases: Biases to add to the scores.
      scale: Factor on the dot products.
      random_bits: uint32 [B, H, 3], the dropout bits (`dropout.dropout_bits`), or None.
      rate: Dropout's rate.
      tilings: Tile sizes; None for those of the head width and dtype.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    (B, T, H), (S, G, Kv) = q.shape[:3], v.shape[1:]
    tilings = tilings or flash_tilings(max(q.shape[3], Kv), q.dtype.itemsize)
    plan = _plan(T, S, mask, biases, rate, H // G, tilings)
    padded_T, padded_S = (
        round_up(n, max(getattr(tiling, axis) for tiling in (plan.forward, plan.dkv, plan.dq, plan.dbias)))
        for n, axis in ((T, "queries"), (S, "keys"))
    )
    bias = None
    toeplitz = _single_toeplitz(biases)
    if toeplitz is not None:
        bias = _toeplitz_bias(toeplitz, padded_T - T, padded_S - S)
    elif biases:
        bias = _dense_bias(q, k, biases, scale, mask, (padded_T, padded_S))
    start = None
    if mask.query_start is not None and (plan.left is not None or plan.right is not None):
        start = jnp.broadcast_to(jnp.asarray(mask.query_start, jnp.int32), (B,))
    global_at, global_bias = _global_operands(mask, S)
    operands = FlashOperands(
        q=_pad((q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype), padded_T),
        k=_pad(k, padded_S),
        v=_pad(v, padded_S),
        key_bias=_key_bias(mask, B, S, padded_S),
        bias=bias,
        global_at=global_at,
        global_bias=global_bias,
        random_bits=random_bits,
        start=start,
        query_segments=_segments(mask.query_segments, padded_T),
        key_segments=_segments(mask.key_segments, padded_S),
    )
    return _flash(plan, operands)[:, :T, :, :Kv]


def _plan(T: int, S: int, mask: Mask, biases: Biases, rate: float, group: int, tilings: FlashTilings) -> FlashPlan:
    left, right = (None, None) if mask.window is None else (min(side, MAX_WINDOW) for side in mask.window)
    # A bound beyond all keys is none.
    if left is not None and mask.query_start is None and left >= T - 1:
        left = None
    if mask.causal:
        right = 0
    elif right is not None and right >= S - 1:
        right = None

    max_queries, max_keys = next_power_of_two(T), next_power_of_two(S)
    forward, dkv, dq = (
        tiling._replace(queries=min(tiling.queries, max_queries), keys=min(tiling.keys, max_keys))
        for tiling in (tilings.forward_biased if biases else tilings.forward, tilings.dkv, tilings.dq)
    )
    side = min(tilings.dbias.queries, max_queries, max_keys)
    dbias = tilings.dbias._replace(queries=side, keys=side)
    toeplitz = _single_toeplitz(biases) is not None
    return FlashPlan(left, right, mask.causal, toeplitz, rate, group, forward, dkv, dq, dbias)


def _single_toeplitz(biases: Biases) -> ToeplitzBias | None:
    """The only bias where it is a Toeplitz one, which stays in the form of diagonals; else None."""
    return biases[0] if len(biases) == 1 and isinstance(biases[0], ToeplitzBias) else None


def _pad(x: jax.Array, length: int) -> jax.Array:
    """Pads [B, N, H, K] with zeros: N to the length and K to a power of two."""
    missing = length - x.shape[1], next_power_of_two(x.shape[3]) - x.shape[3]
    return x if missing == (0, 0) else jnp.pad(x, [(0, 0), (0, missing[0]), (0, 0), (0, missing[1])])


def _as_bias(visible: jax.Array) -> jax.Array:
    return jnp.where(visible, 0.0, MASK_VALUE).astype(jnp.float32)


def _key_bias(mask: Mask, B: int, S: int, length: int) -> jax.Array | None:
    """float32 [B, length], MASK_VALUE at padding and, beside a window, at global keys (which have their tiles)."""
    local = mask.window is not None and mask.key_global is not None
    if mask.key_valid is None and not local and length == S:
        return None
    visible = jnp.ones((B, S), bool) if mask.key_valid is None else mask.key_valid
    if mask.window is not None and mask.key_global is not None:
        visible = visible & ~mask.key_global
    return _as_bias(jnp.pad(visible, [(0, 0), (0, length - S)]))


def _segments(segments: jax.Array | None, length: int) -> jax.Array | None:
    """int32 [B, length]."""
    if segments is None:
        return None
    return jnp.pad(segments.astype(jnp.int32), [(0, 0), (0, length - segments.shape[1])])


def _global_operands(mask: Mask, S: int) -> tuple[jax.Array | None, jax.Array | None]:
    """`global_at` and `global_bias` of the operands, padded to a power of two."""
    if mask.window is None or mask.key_global is None:
        return None, None
    assert mask.global_at is not None, "see unsupported_reason"
    positions = mask.global_at.astype(jnp.int32)
    N = positions.shape[1]
    positions = jnp.pad(positions, [(0, 0), (0, next_power_of_two(N) - N)], constant_values=S)
    clipped = jnp.minimum(positions, S - 1)
    visible = positions < S
    if mask.key_valid is not None:
        visible = visible & jnp.take_along_axis(mask.key_valid, clipped, axis=1)
    return clipped, _as_bias(visible)


def _toeplitz_bias(bias: ToeplitzBias, before: int, after: int) -> jax.Array:
    """float32 [B or 1, H, T+S-1] for the padded lengths: `before` more queries and `after` more keys."""
    diagonals = jnp.maximum(bias.diagonals.astype(jnp.float32) * LOG2E, MIN_BIAS)
    diagonals = diagonals.reshape(-1, *diagonals.shape[-2:])
    return jnp.pad(diagonals, [(0, 0), (0, 0), (before, after)])


def _dense_bias(
    q: jax.Array, k: jax.Array, biases: Biases, scale: jax.Array | float, mask: Mask, lengths: tuple[int, int]
) -> jax.Array:
    """The sum of all biases, float32 [B or 1, H or 1, T*S] for the padded lengths."""
    total = jnp.zeros((), jnp.float32)
    for bias in biases:
        total = total + bias.dense(q, k, mask.start) * (scale * LOG2E if bias.before_scale else LOG2E)
    (T, S), shared = (q.shape[1], k.shape[1]), total.shape[:2]
    total = jnp.broadcast_to(jnp.maximum(total, MIN_BIAS), (*shared, T, S))
    total = jnp.pad(total, [(0, 0), (0, 0), (0, lengths[0] - T), (0, lengths[1] - S)])
    return total.reshape(*shared, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(plan: FlashPlan, operands: FlashOperands) -> jax.Array:
    return forward(plan, operands, _gather_global_kv(operands))[0]


def _gather_global_kv(operands: FlashOperands) -> FlashGlobalKV | None:
    """Inside the custom gradient, so that their gradient is added in place; autodiff would add whole arrays."""
    if operands.global_at is None:
        return None
    index = operands.global_at[:, :, None, None]
    return FlashGlobalKV(*(jnp.take_along_axis(x, index, axis=1) for x in (operands.k, operands.v)))


def _forward(plan: FlashPlan, operands):
    # With symbolic zeros every leaf tells whether its gradient is wanted; the residuals' structure records it.
    bias_gradient = () if operands.bias is not None and operands.bias.perturbed else None
    values = jax.tree.map(lambda leaf: leaf.value, operands, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
    global_kv = _gather_global_kv(values)
    out, score_max, inverse_sum = named_residuals(forward(plan, values, global_kv))
    return out, (values, global_kv, out, score_max, inverse_sum, bias_gradient)


def _backward(plan: FlashPlan, residuals, do):
    x, global_kv, out, score_max, inverse_sum, bias_gradient = residuals
    if isinstance(do, SymbolicZero):
        do = jnp.zeros(out.shape, out.dtype)
    inputs = BackwardInputs(score_max, inverse_sum, compute_delta(plan, out, do), do)
    dk, dv = grad_keys_values(plan, x, inputs)
    dq, *global_grads = grad_queries(plan, x, global_kv, inputs)
    if global_grads:
        dk, dv = (_add_at(d, x.global_at, part) for d, part in zip((dk, dv), global_grads, strict=True))
    dbias = None if bias_gradient is None else grad_bias(plan, x, inputs)
    return (FlashOperands(dq, dk, dv, None, dbias, None, None, None, None, None, None),)


def _add_at(total: jax.Array, positions: jax.Array, part: jax.Array) -> jax.Array:
    """total [B, S, G, K] with part [B, N, G, K] added at the positions [B, N]."""
    return jax.vmap(lambda x, at, new: x.at[at].add(new.astype(x.dtype)))(total, positions, part)


_flash.defvjp(_forward, _backward, symbolic_zeros=True)
