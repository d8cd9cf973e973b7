"""Attention of a few queries over a cache on a TPU: the kernel behind the arguments of `pallas_kernels.decode`."""

import jax

from pallas_kernels.decode_shared import operands, without_gradient
from pallas_kernels.kernel_call import up
from pallas_kernels.stored import Stored
from pallas_kernels.tpu.decode_kernel import Plan, decode
from pallas_kernels.tpu.tiles import LANES

# Queries times heads, the rows that the matrix unit is fed with: on a v5e 128 of them take as long as the memory does,
# 256 take 1.7 times as long.
MOST_ROWS = 256
DTYPES = ("bfloat16", "float32")
# Of keys and values in a grid step: long enough for its fixed cost to vanish, short enough for two of them on the chip.
BLOCK_BYTES = 2 * 2**20


def refuses(q, stored: Stored) -> str | None:
    """Why the kernel cannot take the call, in words; None where it can."""
    _, T, H, _ = q.shape
    rows = T * up(H, 8)
    if rows > MOST_ROWS:
        return f"the kernel for decoding has up to {MOST_ROWS} rows, queries times heads; {T} * {up(H, 8)} = {rows}"
    if str(q.dtype) not in DTYPES:
        return f"queries must be {' or '.join(DTYPES)}; they are {q.dtype}"
    kinds = {str(stored.key.dtype), str(stored.value.dtype)}
    if kinds not in ({str(q.dtype)}, {"int8"}):
        return f"keys and values are kept in the dtype of the queries or in int8; they are {sorted(kinds)}, {q.dtype}"
    return None


def attend(q, stored: Stored, *, mask, biases, scale, block_bytes: int = BLOCK_BYTES) -> jax.Array:
    """[B,T,H,Kv] in q's dtype. q [B,T,H,K]; block_bytes: of keys and values in a grid step; for the rest see
    `pallas_kernels.decode`."""
    plan = Plan(q.shape[1], q.shape[2], _keys(stored, block_bytes), stored.key.shape[1])
    return _decode(plan, operands(q, stored, mask=mask, biases=biases, scale=scale))


_decode = without_gradient(decode)


def _keys(stored: Stored, block_bytes: int) -> int:
    """Of a block: blocks of one size, and as few as there can be."""
    _, S, width = stored.key.shape
    size = (width + stored.value.shape[2]) * stored.key.dtype.itemsize
    most = max(1, block_bytes // size // LANES) * LANES
    return min(S, up(-(-S // -(-S // most)), LANES))
