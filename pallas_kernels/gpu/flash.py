"""Attention on a GPU with windows, global keys, biases and dropout: the kernels behind the door's arguments."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from pallas_kernels.bias import ToeplitzBias
from pallas_kernels.gpu.blocks import Blocks, flash_blocks
from pallas_kernels.gpu.flash_backward import Given, by_keys, by_queries, delta_of
from pallas_kernels.gpu.flash_bias import by_bias
from pallas_kernels.gpu.flash_forward import forward
from pallas_kernels.gpu.plan import Gathered, Operands, Plan
from pallas_kernels.gpu.tiles import power
from pallas_kernels.kernel_call import HIDDEN, LOG2E, LOWEST, of_one_dtype, up

WIDEST = 128
MOST_GLOBALS = 512
DTYPES = ("bfloat16", "float16", "float32")
# Positions and offsets into a bias are int32.
FURTHEST = 2**30
MOST_BIASES = 2**31


def refuses(q, k, v, mask, biases) -> str | None:
    """Why these kernels cannot take the call, in words; None where they can. The arguments are those of `attend`."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not of_one_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; they are {q.dtype}, {k.dtype} and {v.dtype}"
    if max(K, Kv) > WIDEST:
        return f"heads are at most {WIDEST} wide; K = {K}, Kv = {Kv}"
    if biases and not _is_toeplitz(biases) and up(T, 128) * up(S, 128) >= MOST_BIASES:
        return f"a dense bias has at most {MOST_BIASES} values for a head; T * S = {T * S}"
    if mask.window is None or mask.key_global is None:
        return None
    if biases:
        return "a window with global keys takes no bias"
    if mask.global_at is None:
        return "the window takes the places of the global keys; say Mask.global_at beside key_global"
    if mask.global_at.shape[1] > MOST_GLOBALS:
        return f"at most {MOST_GLOBALS} global keys fit beside a window; global_at has {mask.global_at.shape[1]}"
    return None


def attend(q, k, v, *, mask, biases, scale, words, rate, blocks: Blocks | None = None):
    """`reference.attend` without its weights. q [B,T,H,K], k [B,S,H,K], v [B,S,H,Kv] -> [B,T,H,Kv].

    words: uint32 [B,H,3], the dropout's (`dropout.words_of_heads`), or None.
    blocks: the sides of tiles; None for those of the width and dtype.
    """
    (B, T), S, Kv = q.shape[:2], k.shape[1], v.shape[3]
    blocks = blocks or flash_blocks(max(q.shape[3], Kv), q.dtype.itemsize)
    plan = _plan(T, S, mask, biases, rate, blocks)
    T_all, S_all = (
        up(n, max(getattr(sides, axis) for sides in (plan.forward, plan.keys, plan.queries, plan.bias)))
        for n, axis in ((T, "queries"), (S, "keys"))
    )
    bias = None
    if plan.toeplitz:
        bias = _toeplitz(biases[0], T_all - T, S_all - S)
    elif biases:
        bias = _dense(q, k, biases, scale, mask, (T_all, S_all))
    start = None
    if mask.query_start is not None and (plan.left is not None or plan.right is not None):
        start = jnp.broadcast_to(jnp.asarray(mask.query_start, jnp.int32), (B,))
    operands = Operands(
        q=_padded((q.astype(jnp.float32) * (scale * LOG2E)).astype(q.dtype), T_all),
        k=_padded(k, S_all),
        v=_padded(v, S_all),
        key_bias=_key_bias(mask, B, S, S_all),
        bias=bias,
        **_globals(mask, S),
        words=words,
        start=start,
    )
    return _flash(plan, operands)[:, :T, :, :Kv]


def _plan(T: int, S: int, mask, biases, rate: float, blocks: Blocks) -> Plan:
    left, right = (None, None) if mask.window is None else (min(side, FURTHEST) for side in mask.window)
    # A bound beyond all keys is none.
    if left is not None and mask.query_start is None and left >= T - 1:
        left = None
    if mask.causal:
        right = 0
    elif right is not None and right >= S - 1:
        right = None
    tiles = blocks.biased if biases else blocks.forward, blocks.keys, blocks.queries
    sides = (s._replace(queries=min(s.queries, power(T)), keys=min(s.keys, power(S))) for s in tiles)
    side = min(blocks.bias.queries, power(T), power(S))
    square = blocks.bias._replace(queries=side, keys=side)
    return Plan(left, right, mask.causal, _is_toeplitz(biases), rate, *sides, square)


def _is_toeplitz(biases) -> bool:
    return len(biases) == 1 and isinstance(biases[0], ToeplitzBias)


def _padded(x, length: int):
    """[B,N,H,K] with N filled up to the length and K to a power of two."""
    missing = length - x.shape[1], power(x.shape[3]) - x.shape[3]
    return x if missing == (0, 0) else jnp.pad(x, [(0, 0), (0, missing[0]), (0, 0), (0, missing[1])])


def _as_bias(seen):
    return jnp.where(seen, 0.0, HIDDEN).astype(jnp.float32)


def _key_bias(mask, B: int, S: int, length: int):
    """float32 [B,length], HIDDEN at padding and, beside a window, at global keys (they have tiles of their own)."""
    local = mask.window is not None and mask.key_global is not None
    if mask.key_valid is None and not local and length == S:
        return None
    seen = jnp.ones((B, S), bool) if mask.key_valid is None else mask.key_valid
    if local:
        seen = seen & ~mask.key_global
    return _as_bias(jnp.pad(seen, [(0, 0), (0, length - S)]))


def _globals(mask, S: int) -> dict:
    """The operands that describe the global keys, filled up to a power of two."""
    if mask.window is None or mask.key_global is None:
        return {"global_at": None, "global_bias": None}
    given = mask.global_at.astype(jnp.int32)
    given = jnp.pad(given, [(0, 0), (0, power(given.shape[1]) - given.shape[1])], constant_values=S)
    at = jnp.minimum(given, S - 1)
    seen = given < S
    if mask.key_valid is not None:
        seen = seen & jnp.take_along_axis(mask.key_valid, at, axis=1)
    return {"global_at": at, "global_bias": _as_bias(seen)}


def _toeplitz(bias, before: int, after: int):
    """float32 [B or 1, H, T+S-1] for the padded lengths, which have so many queries and keys more."""
    diagonals = jnp.maximum(bias.diagonals.astype(jnp.float32) * LOG2E, LOWEST)
    diagonals = diagonals.reshape(-1, *diagonals.shape[-2:])
    return jnp.pad(diagonals, [(0, 0), (0, 0), (before, after)])


def _dense(q, k, biases, scale, mask, lengths):
    """All biases added up, float32 [B or 1, H or 1, T*S] for the padded lengths."""
    total = 0.0
    for bias in biases:
        total = total + bias.dense(q, k, mask.start) * (scale * LOG2E if bias.before_scale else LOG2E)
    (T, S), most = (q.shape[1], k.shape[1]), total.shape[:2]
    total = jnp.broadcast_to(jnp.maximum(total, LOWEST), (*most, T, S))
    total = jnp.pad(total, [(0, 0), (0, 0), (0, lengths[0] - T), (0, lengths[1] - S)])
    return total.reshape(*most, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(plan: Plan, operands: Operands):
    return forward(plan, operands, _gathered(operands))[0]


def _gathered(operands: Operands) -> Gathered | None:
    """Here and not outside, so that their gradient is added in place, where autodiff adds whole arrays."""
    if operands.global_at is None:
        return None
    at = operands.global_at[:, :, None, None]
    return Gathered(*(jnp.take_along_axis(x, at, axis=1) for x in (operands.k, operands.v)))


def _forward(plan, operands):
    # With symbolic zeros every leaf says whether its gradient is wanted; the structure of what is kept remembers it.
    bias_gradient = () if operands.bias is not None and operands.bias.perturbed else None
    values = jax.tree.map(lambda leaf: leaf.value, operands, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
    gathered = _gathered(values)
    out, top, inverse = forward(plan, values, gathered)
    return out, (values, gathered, out, top, inverse, bias_gradient)


def _backward(plan, kept, do):
    x, gathered, out, top, inverse, bias_gradient = kept
    if isinstance(do, SymbolicZero):
        do = jnp.zeros(out.shape, out.dtype)
    given = Given(top, inverse, delta_of(plan, out, do), do)
    dk, dv = by_keys(plan, x, given)
    dq, *parts = by_queries(plan, x, gathered, given)
    if parts:
        dk, dv = (_add_at(d, x.global_at, part) for d, part in zip((dk, dv), parts, strict=True))
    bias = None if bias_gradient is None else by_bias(plan, x, given)
    return (Operands(dq, dk, dv, None, bias, None, None, None, None),)


def _add_at(total, at, part):
    """total [B,S,H,K] with part [B,G,H,K] added at the places [B,G]."""
    return jax.vmap(lambda x, places, new: x.at[places].add(new.astype(x.dtype)))(total, at, part)


_flash.defvjp(_forward, _backward, symbolic_zeros=True)
