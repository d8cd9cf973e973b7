"""Attention whose keys all fit on the chip at once (up to about 2048): the kernels behind the door's arguments."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from pallas_kernels.bias import ToeplitzBias, skew
from pallas_kernels.kernel_call import HIDDEN, LOG2E, LOWEST, of_one_dtype, up
from pallas_kernels.tpu.blocks import ShortBlocks, short_blocks
from pallas_kernels.tpu.short_backward import backward
from pallas_kernels.tpu.short_forward import forward
from pallas_kernels.tpu.short_plan import Operands, Plan
from pallas_kernels.tpu.tiles import LANES, length_last

LONGEST = 2048
WIDEST = 256
# A dense bias and its gradient are on the chip as a whole, twice each for the double buffering.
MOST_BIASES = 2**20
DTYPES = ("bfloat16", "float32")


def refuses(q, k, v, mask, biases) -> str | None:
    """Why these kernels cannot take the call, in words; None where they can. The arguments are those of `attend`."""
    (_, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    if not of_one_dtype((q, k, v), DTYPES):
        return f"q, k and v must all be {' or '.join(DTYPES)}; they are {q.dtype}, {k.dtype} and {v.dtype}"
    if mask.window is not None:
        return "the kernel for whole rows has no window"
    if max(T, S) > LONGEST:
        return f"whole rows fit on the chip up to a length of {LONGEST}; T = {T}, S = {S}"
    if max(K, Kv) > WIDEST:
        return f"heads are at most {WIDEST} wide; K = {K}, Kv = {Kv}"
    toeplitz = _is_toeplitz(biases)
    if biases and not toeplitz and T * S > MOST_BIASES:
        return f"a dense bias fits on the chip up to T * S = {MOST_BIASES}; {T} * {S} = {T * S}"
    return None


def attend(q, k, v, *, mask, biases, scale, words, rate, blocks: ShortBlocks | None = None):
    """`reference.attend` without its weights. q [B,T,H,K], k [B,S,H,K], v [B,S,H,Kv] -> [B,T,H,Kv].

    words: uint32 [B,H,3], the dropout's (`dropout.words_of_heads`), or None.
    blocks: the sides of tiles; None for those of the chip.
    """
    (B, T, _, K), S, Kv = q.shape, k.shape[1], v.shape[3]
    plans = _plans(q, k, mask, biases, rate, blocks or short_blocks(K))
    lengths, widths = (up(T, LANES), up(S, LANES)), (up(K, 16), up(Kv, 16))
    bias = None
    if plans[0].toeplitz:
        bias = _toeplitz(plans[0].tiling.queries, biases[0], T, S)
    elif biases:
        bias = _dense(q, k, biases, scale, mask)
    start = None
    if mask.causal and mask.query_start is not None:
        start = jnp.broadcast_to(jnp.asarray(mask.query_start, jnp.int32), (B,))
    operands = Operands(
        q=length_last(q.astype(jnp.float32) * (scale * LOG2E), widths[0], lengths[0]).astype(q.dtype),
        k=length_last(k, widths[0], lengths[1]),
        v=length_last(v, widths[1], lengths[1]),
        key_bias=_key_bias(mask, B, T, S, lengths[1]),
        bias=bias,
        words=None if words is None else words.reshape(-1),
        start=start,
    )
    out = _short(plans, operands)
    return out[:, :, :Kv, :T].transpose(0, 3, 1, 2)


def _plans(q, k, mask, biases, rate, blocks: ShortBlocks) -> tuple[Plan, Plan]:
    """Of the forward and of the backward pass."""
    (_, T, H, _), S, toeplitz = q.shape, k.shape[1], _is_toeplitz(biases)
    forward, backward = blocks.forward, blocks.causal if mask.causal else blocks.whole
    if toeplitz:  # its distinct tiles are square, and the same in both passes
        forward = backward = forward._replace(keys=forward.queries)
    heads = 1 if biases and not toeplitz else _heads(H, T * S)
    forward, backward = (Plan(mask.causal, toeplitz, rate, heads, tiling) for tiling in (forward, backward))
    return forward, backward


def _heads(H: int, pairs: int) -> int:
    """Heads in one grid step: a step costs about as much as a tile of 256 x 256, so short rows share one."""
    return max(n for n in range(1, H + 1) if H % n == 0 and (n == 1 or n * pairs <= 2**19))


def _is_toeplitz(biases) -> bool:
    return len(biases) == 1 and isinstance(biases[0], ToeplitzBias) and biases[0].diagonals.ndim == 2


def _key_bias(mask, B, T, S, padded):
    """float32 [B,1,padded], HIDDEN at keys that are not there; None where no query could see one of those."""
    valid = mask.key_valid
    if valid is None and (padded == S or (mask.causal and mask.query_start is None and T <= S)):
        return None
    valid = jnp.ones((B, S), bool) if valid is None else valid
    valid = jnp.pad(valid, [(0, 0), (0, padded - S)])
    return jnp.where(valid, 0.0, HIDDEN).astype(jnp.float32)[:, None]


def _dense(q, k, biases, scale, mask):
    """All biases added up and turned: float32 [B or 1, H or 1, S, T], padded to whole registers."""
    total = 0.0
    for bias in biases:
        term = bias.dense(q, k, mask.start)
        total = total + (term * scale if bias.before_scale else term)
    T, S = q.shape[1], k.shape[1]
    total = jnp.broadcast_to(jnp.maximum(total * LOG2E, LOWEST), (*total.shape[:2], T, S)).swapaxes(2, 3)
    return jnp.pad(total, [(0, 0), (0, 0), (0, up(S, LANES) - S), (0, up(T, LANES) - T)])


def _toeplitz(size: int, bias, T: int, S: int):
    """The distinct tiles of the bias, float32 [H, N, size, size], keys before queries: a tile depends on the distance
    between its first query and its first key alone, so there are as many as blocks on two sides of the whole."""
    before, after = (math.ceil(up(n, LANES) / size) - 1 for n in (S, T))
    diagonals = jnp.maximum(bias.diagonals.astype(jnp.float32) * LOG2E, LOWEST)
    # diagonals[s - t + T - 1]; tile n has the first query (n - before) * size after the first key.
    edge = (after + 1) * size
    padded = jnp.pad(diagonals, [(0, 0), (edge, (before + 1) * size)])
    starts = [edge + T - size - (n - before) * size for n in range(before + after + 1)]
    windows = jnp.stack([padded[:, at : at + 2 * size - 1] for at in starts], axis=1)
    turned = jnp.broadcast_to(windows[..., None, ::-1], (*windows.shape[:2], size, 2 * size - 1))
    return skew(turned, size)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _short(plans: tuple[Plan, Plan], operands: Operands):
    return forward(plans[0], operands)[0]


def _forward(plans, operands):
    # With symbolic zeros every leaf says whether its gradient is wanted; the structure of what is kept remembers it.
    bias_gradient = () if operands.bias is not None and operands.bias.perturbed else None
    values = jax.tree.map(lambda leaf: leaf.value, operands, is_leaf=lambda leaf: isinstance(leaf, CustomVJPPrimal))
    out, statistics = forward(plans[0], values)
    return out, (values, out, statistics, bias_gradient)


def _backward(plans, kept, do):
    operands, out, statistics, bias_gradient = kept
    if isinstance(do, SymbolicZero):
        do = jnp.zeros(out.shape, out.dtype)
    grads = backward(plans[1], operands, out, statistics, do, bias_gradient is not None)
    bias = grads.get("dbias")
    if bias is not None and bias.shape != operands.bias.shape:
        bias = bias.sum(axis=1, keepdims=True)
    return (Operands(grads["dq"], grads["dk"], grads["dv"], None, bias, None, None),)


_short.defvjp(_forward, _backward, symbolic_zeros=True)
