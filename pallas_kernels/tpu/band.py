"""Attention to a window and to a few global keys (LED, Longformer): the kernels behind the door's arguments."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from pallas_kernels.kernel_call import HIDDEN, LOG2E, of_one_dtype, up
from pallas_kernels.tpu.band_backward import backward
from pallas_kernels.tpu.band_forward import forward
from pallas_kernels.tpu.band_globals import pick, put_back
from pallas_kernels.tpu.band_plan import BIAS_ROWS, Operands, Plan
from pallas_kernels.tpu.blocks import BandBlocks, band_blocks
from pallas_kernels.tpu.tiles import LANES, length_last

WIDEST = 256
# Keys in sight of one query, without the global ones: all their scores are on the chip at once.
MOST_KEYS = 4096
MOST_GLOBALS = 512
# Queries of a grid step times keys in their window: its tiles are written out one by one, and compiling takes its time.
MOST_PAIRS = 2**21
DTYPES = ("bfloat16", "float32")


def refuses(q, k, v, mask, biases) -> str | None:
    """Why these kernels cannot take the call, in words; None where they can. The arguments are those of `attend`."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not of_one_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; they are {q.dtype}, {k.dtype} and {v.dtype}"
    if mask.window is None:
        return "the kernel for a band needs Mask.window"
    if T != S:
        return f"the kernel for a band has as many queries as keys; T = {T}, S = {S}"
    if mask.query_start is not None:
        return "the kernel for a band has no query_start"
    if biases:
        return "the kernel for a band takes no bias"
    if mask.key_global is not None and mask.global_at is None:
        return "the kernel for a band takes the places of the global keys; say Mask.global_at beside key_global"
    if mask.global_at is not None and mask.global_at.shape[1] > MOST_GLOBALS:
        return f"at most {MOST_GLOBALS} global keys fit beside a window; global_at has {mask.global_at.shape[1]}"
    if sum(_reach(mask, T)) >= MOST_KEYS:
        return f"a window fits on the chip up to {MOST_KEYS} keys; {mask.window} of T = {T} is wider"
    if max(K, Kv) > WIDEST:
        return f"heads are at most {WIDEST} wide; K = {K}, Kv = {Kv}"
    return None


def attend(q, k, v, *, mask, biases, scale, words, rate, blocks: BandBlocks | None = None):
    """`reference.attend` without its weights. q [B,T,H,K], k [B,T,H,K], v [B,T,H,Kv] -> [B,T,H,Kv].

    words: uint32 [B,H,3], the dropout's (`dropout.words_of_heads`), or None. biases: none, see `refuses`.
    blocks: the sides of tiles; None for those of the chip.
    """
    (_, T, _, K), Kv = q.shape, v.shape[3]
    plan = _plan(T, mask, rate, blocks or band_blocks(K))
    length, widths = plan.blocks * plan.block, (up(K, 16), up(Kv, 16))
    operands = Operands(
        q=length_last(q.astype(jnp.float32) * (scale * LOG2E), widths[0], length).astype(q.dtype),
        k=length_last(k, widths[0], length),
        v=length_last(v, widths[1], length),
        key_bias=_key_bias(plan, q, mask),
        **_globals(plan, q, mask),
        words=None if words is None else words.reshape(-1),
    )
    return _band(plan, operands)[:, :, :Kv, :T].transpose(0, 3, 1, 2)


def _reach(mask, T: int) -> tuple[int, int]:
    """How many keys before and after itself a query sees."""
    left, right = mask.window
    return min(left, T - 1), 0 if mask.causal else min(right, T - 1)


def _plan(T: int, mask, rate: float, sides: BandBlocks) -> Plan:
    left, right = _reach(mask, T)
    longest = sides.block
    while longest > 256 and longest * min(left + right, T) > MOST_PAIRS:
        longest //= 2
    # As many blocks as the longest need, each no longer than it must be.
    blocks = math.ceil(T / longest)
    return Plan(
        left=left,
        right=right,
        causal=mask.causal,
        rate=rate,
        block=up(math.ceil(T / blocks), LANES),
        blocks=blocks,
        forward=sides.forward,
        backward=sides.backward,
    )


def _key_bias(plan: Plan, q, mask):
    """Hides padding, global keys (they have columns of their own), and the blocks outside the sequence."""
    B, T = q.shape[:2]
    seen = jnp.ones((B, T), bool) if mask.key_valid is None else mask.key_valid
    if mask.key_global is not None:
        seen = seen & ~mask.key_global
    around = plan.before * plan.block, (plan.blocks + plan.after) * plan.block - T
    return _bias_rows(jnp.pad(seen, [(0, 0), around]), q.dtype)


def _bias_rows(seen, dtype):
    """bool [B,N] -> [B,BIAS_ROWS,N]."""
    bias = jnp.where(seen, 0.0, HIDDEN).astype(dtype)[:, None]
    return jnp.pad(bias, [(0, 0), (0, BIAS_ROWS - 1), (0, 0)])


def _globals(plan: Plan, q, mask) -> dict:
    """The operands that describe the global keys, padded to BIAS_ROWS of them."""
    if mask.global_at is None:
        return {"global_at": None, "global_bias": None, "global_column": None}
    T = q.shape[1]
    given = mask.global_at.astype(jnp.int32)
    given = jnp.pad(given, [(0, 0), (0, up(max(given.shape[1], 1), BIAS_ROWS) - given.shape[1])], constant_values=T)
    given = jnp.sort(given, axis=1)
    at = jnp.minimum(given, T - 1)
    seen = given < T
    if mask.key_valid is not None:
        seen = seen & jnp.take_along_axis(mask.key_valid, at, axis=1)
    wanted = plan.causal or plan.rate > 0
    column = jnp.broadcast_to(at[..., None], (*at.shape, LANES)) if wanted else None
    return {"global_at": at, "global_bias": _bias_rows(seen, q.dtype), "global_column": column}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _band(plan: Plan, operands: Operands):
    return _forward(plan, operands)[0]


def _forward(plan, operands):
    places = operands.global_at
    picked = (None, None) if places is None else pick(places, operands.k, operands.v)
    out, statistics = forward(plan, operands, *picked)
    return out, (operands, picked, out, statistics)


def _backward(plan, kept, do):
    operands, picked, out, statistics = kept
    grads = backward(plan, operands, *picked, out, statistics, do)
    dk, dv = grads["dk"], grads["dv"]
    if operands.global_at is not None:
        dk, dv = put_back(operands.global_at, (dk, dv), (grads["global_dk"], grads["global_dv"]))
    return (Operands(grads["dq"], dk, dv, None, None, None, None, None),)


_band.defvjp(_forward, _backward)
