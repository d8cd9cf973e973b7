"""Sliding-window attention with global keys on a TPU (LED, Longformer): the entry point and its gradient.

A causal call whose rows are too long for the full-row kernels is a window that reaches all keys before.

Two small kernels gather the global keys of each example and scatter their gradients. XLA would first transpose all keys
to make the length the major axis. Here one step fetches the LANES keys around a position and multiplies with a matrix
of zeros and ones that selects the global keys among them: all that lie there, so that the steps of the others have
nothing to do. With ascending positions those steps are adjacent, and no block is fetched twice: not after it changed,
either.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import LOG2E
from pallas_kernels.bias import Biases
from pallas_kernels.derivatives import named_residuals
from pallas_kernels.kernel_call import has_common_dtype, like_operand, round_up
from pallas_kernels.mask import MASK_VALUE, Mask
from pallas_kernels.tpu.sliding_window_backward import backward
from pallas_kernels.tpu.sliding_window_forward import (
    BIAS_ROWS,
    SlidingWindowGlobalKV,
    SlidingWindowOperands,
    SlidingWindowPlan,
    forward,
)
from pallas_kernels.tpu.tiles import (
    LANES,
    SlidingWindowTilings,
    compiler_params,
    sliding_window_tilings,
    to_length_minor,
)

MAX_HEAD_DIM = 256
# Visible keys of one query, without the global ones: all their scores are in VMEM at once.
MAX_WINDOW_KEYS = 4096
MAX_GLOBAL_KEYS = 512
# Queries of a grid step times keys of their window: the kernel's tiles are unrolled, which takes time to compile.
MAX_BLOCK_PAIRS = 2**21
DTYPES = ("bfloat16", "float32")


def unsupported_reason(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, biases: Biases) -> str | None:
    """Why these kernels do not support a call of `attend` with these arguments; None where they do."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    mask, start = _windowed(mask, T), mask.query_start
    if not has_common_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; got {q.dtype}, {k.dtype} and {v.dtype}"
    if mask.window is None:
        return "the sliding-window kernel requires Mask.window, or a causal mask without a query_start"
    if start is None and T != S:
        return f"the sliding-window kernel requires as many queries as keys; got T = {T}, S = {S}"
    if start is not None and not (isinstance(start, int) and 0 <= start <= mask.window[0] and start + T <= S):
        return (
            "the sliding-window kernel requires a static query_start, no larger than the window before a query, and a "
            f"key for every query; got query_start = {start}, window = {mask.window}, T = {T}, S = {S}"
        )
    if biases:
        return "the sliding-window kernel does not support a bias"
    if mask.key_segments is not None:
        return "the sliding-window kernel does not support segments"
    if mask.key_global is not None and mask.global_at is None:
        return (
            "the sliding-window kernel requires the positions of the global keys; pass Mask.global_at beside key_global"
        )
    if mask.global_at is not None and mask.global_at.shape[1] > MAX_GLOBAL_KEYS:
        return (
            f"at most {MAX_GLOBAL_KEYS} global keys are supported beside a window; global_at has "
            f"{mask.global_at.shape[1]}"
        )
    if sum(_reach(mask, T, S)) >= MAX_WINDOW_KEYS:
        return f"a window may have up to {MAX_WINDOW_KEYS} keys; got {mask.window} with T = {T}"
    if max(K, Kv) > MAX_HEAD_DIM:
        return f"the head width must be at most {MAX_HEAD_DIM}; got K = {K}, Kv = {Kv}"
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
    tilings: SlidingWindowTilings | None = None,
) -> jax.Array:
    """Attention by the sliding-window kernels, differentiable with respect to q, k and v.

    Args:
      q: [B, T, H, K].
      k: [B, S, G, K], S = T without a `query_start`.
      v: [B, S, G, Kv].
      mask: Visibility rule with a window, or a causal one.
      biases: Empty.
      scale: Factor on the dot products.
      random_bits: uint32 [B, H, 3], the dropout bits (`dropout.dropout_bits`), or None.
      rate: Dropout's rate.
      tilings: Tile sizes; None for those of the chip.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    (_, T, H, K), (S, G, Kv) = q.shape, v.shape[1:]
    mask = _windowed(mask, T)
    plan = _plan(T, S, mask, rate, H // G, tilings or sliding_window_tilings(K))
    length, widths = plan.blocks * plan.block, (round_up(K, 16), round_up(Kv, 16))
    if plan.halo:
        k, v = (jnp.pad(x, [(0, 0), (plan.front, 0), (0, 0), (0, 0)]) for x in (k, v))
    keys = plan.key_blocks * plan.block
    global_at, global_bias, global_column = _global_operands(plan, q, mask)
    operands = SlidingWindowOperands(
        q=to_length_minor(q.astype(jnp.float32) * (scale * LOG2E), widths[0], length).astype(q.dtype),
        k=to_length_minor(k, widths[0], keys),
        v=to_length_minor(v, widths[1], keys),
        key_bias=_key_bias(plan, q, S, mask),
        global_at=global_at + plan.front if plan.halo and global_at is not None else global_at,
        global_bias=global_bias,
        global_column=global_column,
        random_bits=None if random_bits is None else random_bits.reshape(-1),
    )
    return _sliding_window(plan, operands)[:, :, :Kv, :T].transpose(0, 3, 1, 2)


def _windowed(mask: Mask, T: int) -> Mask:
    """A causal mask without a window as one with a window over all keys before; any other one unchanged."""
    if mask.window is not None or not mask.causal or mask.query_start is not None:
        return mask
    return replace(mask, window=(T - 1, 0), key_global=None, global_at=None)


def _reach(mask: Mask, T: int, S: int) -> tuple[int, int]:
    """Number of keys that a query sees before and after itself."""
    assert mask.window is not None
    (left, right), start = mask.window, _static_start(mask) or 0
    return min(left, start + T - 1), 0 if mask.causal else min(right, S - start - 1)


def _static_start(mask: Mask) -> int | None:
    return mask.query_start if isinstance(mask.query_start, int) else None


def _plan(T: int, S: int, mask: Mask, rate: float, group: int, tilings: SlidingWindowTilings) -> SlidingWindowPlan:
    left, right = _reach(mask, T, S)
    max_block = tilings.block
    while max_block > 256 and max_block * min(left + right, S) > MAX_BLOCK_PAIRS:
        max_block //= 2
    # As many blocks as the longest ones need, each no longer than necessary.
    blocks = math.ceil(T / max_block)
    return SlidingWindowPlan(
        left=left,
        right=right,
        causal=mask.causal,
        rate=rate,
        group=group,
        block=round_up(math.ceil(T / blocks), LANES),
        blocks=blocks,
        start=_static_start(mask),
        num_keys=S,
        forward=tilings.forward,
        backward=tilings.backward,
    )


def _key_bias(plan: SlidingWindowPlan, q: jax.Array, S: int, mask: Mask) -> jax.Array:
    """Masks padding, global keys (which have columns of their own), and the blocks outside the sequence."""
    B = q.shape[0]
    visible = jnp.ones((B, S), bool) if mask.key_valid is None else mask.key_valid
    if mask.key_global is not None:
        visible = visible & ~mask.key_global
    length = (plan.before + max(plan.blocks + plan.after, plan.key_blocks - plan.lead)) * plan.block
    return _bias_rows(jnp.pad(visible, [(0, 0), (plan.front, length - plan.front - S)]), q.dtype)


def _bias_rows(visible: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """bool [B, N] -> [B, BIAS_ROWS, N]."""
    bias = jnp.where(visible, 0.0, MASK_VALUE).astype(dtype)[:, None]
    return jnp.pad(bias, [(0, 0), (0, BIAS_ROWS - 1), (0, 0)])


def _global_operands(
    plan: SlidingWindowPlan, q: jax.Array, mask: Mask
) -> tuple[jax.Array | None, jax.Array | None, jax.Array | None]:
    """`global_at`, `global_bias` and `global_column` of the operands, padded to a multiple of BIAS_ROWS keys."""
    if mask.global_at is None:
        return None, None, None
    S = plan.num_keys
    positions = mask.global_at.astype(jnp.int32)
    N = round_up(max(positions.shape[1], 1), BIAS_ROWS)
    positions = jnp.pad(positions, [(0, 0), (0, N - positions.shape[1])], constant_values=S)
    positions = jnp.sort(positions, axis=1)
    clipped = jnp.minimum(positions, S - 1)
    visible = positions < S
    if mask.key_valid is not None:
        visible = visible & jnp.take_along_axis(mask.key_valid, clipped, axis=1)
    needs_column = plan.causal or plan.rate > 0
    column = jnp.broadcast_to(clipped[..., None], (*clipped.shape, LANES)) if needs_column else None
    return clipped, _bias_rows(visible, q.dtype), column


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sliding_window(plan: SlidingWindowPlan, operands: SlidingWindowOperands) -> jax.Array:
    return _forward(plan, operands)[0]


def _forward(plan: SlidingWindowPlan, operands: SlidingWindowOperands):
    global_kv = None
    if operands.global_at is not None:
        global_kv = SlidingWindowGlobalKV(*_gather(operands.global_at, operands.k, operands.v))
    out, statistics = named_residuals(forward(plan, operands, global_kv))
    return out, (operands, global_kv, out, statistics)


def _backward(plan: SlidingWindowPlan, residuals, do: jax.Array):
    operands, global_kv, out, statistics = residuals
    grads = backward(plan, operands, global_kv, out, statistics, do)
    dk, dv = grads["dk"], grads["dv"]
    if operands.global_at is not None:
        dk, dv = _scatter_add(operands.global_at, (dk, dv), (grads["global_dk"], grads["global_dv"]))
    return (SlidingWindowOperands._make([grads["dq"], dk, dv, None, None, None, None, None]),)


_sliding_window.defvjp(_forward, _backward)


def _gather(positions: jax.Array, *arrays: jax.Array) -> list[jax.Array]:
    """Gathers columns: [B, G, K, T] -> [B, G, K, N] each. positions: int32 [B, N], ascending, inside the sequence."""
    N = positions.shape[1]
    shapes = [jax.ShapeDtypeStruct((*x.shape[:3], N), x.dtype) for x in arrays]
    sums = [pltpu.VMEM((x.shape[1] * x.shape[2], N), jnp.float32) for x in arrays]
    specs = [_example_spec(x) for x in shapes]
    return _call_kernel(_gather_kernel, "band_pick", positions, arrays, specs, shapes, scratch=sums)


def _scatter_add(positions: jax.Array, totals: Sequence[jax.Array], parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Adds to each total [B, G, K, T] its float32 part [B, G, K, N] at the positions, in place."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in totals]
    aliases = {2 + i: i for i in range(len(totals))}
    specs = [_surrounding_spec(x, positions.shape[1]) for x in totals]
    return _call_kernel(
        _scatter_add_kernel, "band_put_back", positions, totals, specs, shapes, more=parts, aliases=aliases
    )


def _call_kernel(
    kernel: Callable[..., None],
    name: str,  # as in tests/pallas_kernels/tpu_budgets.json
    positions: jax.Array,
    arrays: Sequence[jax.Array],
    out_specs: list[pl.BlockSpec],
    out_shape: list[jax.ShapeDtypeStruct],
    more: Sequence[jax.Array] = (),
    scratch: Sequence = (),
    aliases: dict[int, int] | None = None,
) -> list[jax.Array]:
    B, N = positions.shape
    column = pl.BlockSpec((None, 1, N), lambda b, n, at: (b, 0, 0))
    return pl.pallas_call(
        partial(kernel, len(arrays)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, N),
            in_specs=[column, *(_surrounding_spec(x, N) for x in arrays), *map(_example_spec, more)],
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=[like_operand(shape, arrays[0]) for shape in out_shape],
        input_output_aliases=aliases or {},
        compiler_params=compiler_params("parallel", "arbitrary"),
        name=name,
    )(positions.reshape(-1), positions[:, None], *arrays, *more)


def _surrounding_spec(x, N: int) -> pl.BlockSpec:
    """The block of LANES keys of all heads that contains the step's position."""
    return pl.BlockSpec((None, *x.shape[1:3], LANES), lambda b, n, at: (b, 0, 0, at[b * N + n] // LANES))


def _example_spec(x) -> pl.BlockSpec:
    """All of an example."""
    return pl.BlockSpec((None, *x.shape[1:]), lambda b, n, at: (b, 0, 0, 0))


def _current_block(at) -> tuple[jax.Array, jax.Array]:
    """The block of keys of this step, in units of LANES, and whether this is the first step of that block."""
    n = pl.program_id(1)
    step = pl.program_id(0) * pl.num_programs(1) + n
    block = at[step] // LANES
    return block, jnp.logical_or(n == 0, at[jnp.maximum(step - 1, 0)] // LANES != block)


def _selection(positions: jax.Array, block: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[LANES, N]: one where a key of the block is that global one."""
    keys = block * LANES + jax.lax.broadcasted_iota(jnp.int32, (LANES, positions.shape[1]), 0)
    return (keys == positions).astype(dtype)


def _select(a: jax.Array, b: jax.Array, contract: int) -> jax.Array:
    """The product of `a` with a selection `b`: every sum has one nonzero term, whose value is unchanged."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dimensions = (((1,), (contract,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _gather_kernel(count: int, at, positions, *refs) -> None:
    arrays, gathered, sums = refs[:count], refs[count : 2 * count], refs[2 * count :]
    (block, is_first), n, last = _current_block(at), pl.program_id(1), pl.num_programs(1) - 1

    @pl.when(n == 0)
    def _():
        for total in sums:
            total[...] = jnp.zeros_like(total)

    @pl.when(is_first)
    def _():
        for x, total in zip(arrays, sums, strict=True):
            rows = x[...].reshape(-1, LANES)
            total[...] += _select(rows, _selection(positions[...], block, x.dtype), 0)

    @pl.when(n == last)
    def _():
        for out, total in zip(gathered, sums, strict=True):
            out[...] = total[...].astype(out.dtype).reshape(out.shape)


def _scatter_add_kernel(count: int, at, positions, *refs) -> None:
    totals, parts, results = refs[:count], refs[count : 2 * count], refs[2 * count :]
    block, is_first = _current_block(at)

    @pl.when(is_first)
    def _():
        for total, part, out in zip(totals, parts, results, strict=True):
            rows = part[...].astype(total.dtype).reshape(-1, part.shape[-1])
            scattered = _select(rows, _selection(positions[...], block, total.dtype), 1).reshape(total.shape)
            out[...] = (total[...].astype(jnp.float32) + scattered).astype(out.dtype)
