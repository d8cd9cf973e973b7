"""Attention of a few queries over a packed KV cache on a TPU: the kernel of `pallas_kernels.decode`.

It attends with all heads of a few queries at once, block of keys after block of keys. The cache holds a token's heads
next to each other, so a block of keys is a matrix [keys, G*K]. The queries become the rows of a block-diagonal matrix,
and then two products serve all heads:

    scores [T*H, keys] = Q [T*H, G*K] . keys',    acc [T*H, G*K] = weights [T*H, keys] . values

of which the columns of each row's key head are selected at the end. The query heads that share a key head are further
rows with the same columns: row r*G + g of a token is the r-th query head of key head g. Most of the matrix unit's
operands are zeros, and it still has time to spare: a step reads every key and value once and memory sets the pace. The
softmax is online (FlashAttention, arXiv:2205.14135). The scales of an int8 cache multiply scores and weights, not keys
and values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.base2 import NO_VISIBLE_KEY
from pallas_kernels.bias import Biases
from pallas_kernels.kernel_call import BlockedArray, Refs, call_kernel, round_up
from pallas_kernels.kv_cache import DecodeOperands, PackedKV, decode_operands, to_query_heads, without_gradient
from pallas_kernels.mask import MASK_VALUE, Mask
from pallas_kernels.sharding import platform
from pallas_kernels.tpu.tiles import LANES, Index, compiler_params, queries_by_keys, queries_by_width

# Queries times heads, the rows of the products; with more of them the matrix unit takes longer than memory
# (benchmarks/README.md, "Kernels").
MAX_QUERY_ROWS = 256
DTYPES = ("bfloat16", "float32")
# Bytes of keys and values in a grid step: large enough for its fixed cost to vanish, small enough for two in VMEM.
BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True)
class TpuDecodePlan:
    """Static description of a call.

    Attributes:
      queries, heads, key_heads: T, H and G.
      block_keys: Keys of a block.
      length: S.
    """

    queries: int
    heads: int
    key_heads: int
    block_keys: int
    length: int

    @property
    def rows(self) -> int:
        """Rows of one query: its heads, padded to whole registers."""
        return round_up(self.heads, 8)

    @property
    def group(self) -> int:
        """R, the query heads that share a key head."""
        return self.heads // self.key_heads

    @property
    def is_ragged(self) -> bool:
        """Whether the last block reaches beyond the last key, into undefined memory."""
        return self.length % self.block_keys > 0


def unsupported_reason(q: jax.Array, packed: PackedKV) -> str | None:
    """Why the kernel does not support a call of `attend` with these arguments; None where it does."""
    _, T, H, _ = q.shape
    rows = T * round_up(H, 8)
    if rows > MAX_QUERY_ROWS:
        return (
            f"the decode kernel supports up to {MAX_QUERY_ROWS} rows, queries times heads; "
            f"got {T} * {round_up(H, 8)} = {rows}"
        )
    if str(q.dtype) not in DTYPES:
        return f"queries must be {' or '.join(DTYPES)}; got {q.dtype}"
    dtypes = {str(packed.key.dtype), str(packed.value.dtype)}
    if dtypes not in ({str(q.dtype)}, {"int8"}):
        return f"keys and values must have the dtype of the queries or int8; got {sorted(dtypes)} and {q.dtype}"
    return None


def attend(
    q: jax.Array,
    packed: PackedKV,
    *,
    mask: Mask,
    biases: Biases,
    scale: jax.Array | float,
    block_bytes: int = BLOCK_BYTES,
) -> jax.Array:
    """Attention over a packed KV cache.

    Args:
      q: [B, T, H, K].
      packed: The cache.
      mask, biases, scale: As in `pallas_kernels.decode`.
      block_bytes: Bytes of keys and values in a grid step.

    Returns:
      [B, T, H, Kv] in q.dtype.
    """
    _, T, H, K = q.shape
    plan = TpuDecodePlan(T, H, packed.heads(K), _block_keys(packed, block_bytes), packed.key.shape[1])
    return to_query_heads(_decode(plan, decode_operands(q, packed, mask=mask, biases=biases, scale=scale)), H)


def _block_keys(packed: PackedKV, block_bytes: int) -> int:
    """Keys of a block: blocks of one size, and as few as possible."""
    _, S, width = packed.key.shape
    bytes_per_key = (width + packed.value.shape[2]) * packed.key.dtype.itemsize
    max_keys = max(1, block_bytes // bytes_per_key // LANES) * LANES
    return min(S, round_up(-(-S // -(-S // max_keys)), LANES))


@without_gradient
@partial(jax.jit, static_argnums=0)
def _decode(plan: TpuDecodePlan, x: DecodeOperands) -> jax.Array:
    """[B, T*R, G, Kv] in q.dtype."""
    (B, queries), width, value_width = x.q.shape[:2], x.key.shape[-1], x.value.shape[-1]
    rows = plan.queries * plan.rows
    bias = None if x.bias is None else x.bias.reshape(x.bias.shape[0], plan.queries, -1, plan.length)
    # The first and the last block that are read, if any is.
    blocks = jnp.maximum(x.visible_range // plan.block_keys, 0)

    def block_index(b, j, blocks):
        """The block of a grid step: none is read again for steps after the last one that is needed."""
        return jnp.minimum(blocks[0, b] + j, blocks[1, b])

    def keys_spec(width):
        return pl.BlockSpec((None, plan.block_keys, width), lambda b, j, blocks: (b, block_index(b, j, blocks), 0))

    def scales_of(array):
        if array is None:
            return None
        block = (None, round_up(plan.key_heads, 8), plan.block_keys)
        return BlockedArray(array, pl.BlockSpec(block, lambda b, j, blocks: (b, 0, block_index(b, j, blocks))))

    def queries_spec(width):
        return pl.BlockSpec((None, queries, width), lambda b, j, blocks: (b, 0, 0))

    results = call_kernel(
        partial(_kernel, plan),
        name="decode",
        grid=(B, pl.cdiv(plan.length, plan.block_keys)),
        compiler_params=compiler_params("parallel", "arbitrary"),
        cost=_cost(rows, x),
        scalars={"blocks": blocks},
        inputs={
            "q": BlockedArray(x.q.reshape(B, queries, width), queries_spec(width)),
            "key": BlockedArray(_in_hbm(x.key), keys_spec(width)),
            "value": BlockedArray(_in_hbm(x.value), keys_spec(value_width)),
            "key_scale": scales_of(x.key_scale),
            "value_scale": scales_of(x.value_scale),
            "bias": bias if bias is None else BlockedArray(bias, _bias_spec(plan, bias.shape, block_index)),
        },
        outputs={
            "o": BlockedArray(jax.ShapeDtypeStruct((B, queries, value_width), x.q.dtype), queries_spec(value_width))
        },
        scratch={
            "queries": pltpu.VMEM((rows, width), x.q.dtype),
            "max": pltpu.VMEM((rows, LANES), jnp.float32),
            "sum": pltpu.VMEM((rows, LANES), jnp.float32),
            "acc": pltpu.VMEM((rows, value_width), jnp.float32),
        },
    )
    return results["o"].reshape(B, queries, plan.key_heads, -1)


def _in_hbm(x: jax.Array) -> jax.Array:
    """Places the cache in HBM, from where the kernel reads it.

    XLA would bring a part of the cache to VMEM, write the new token there and bring it all back, twice the traffic of
    the kernel itself. (Interpreters have only one memory space.)
    """
    return pltpu.with_memory_space_constraint(x, pltpu.HBM) if platform() == "tpu" else x


def _cost(rows: int, x: DecodeOperands) -> pl.CostEstimate:
    """Cost for XLA's cost analysis and scheduling: every key and value once, and two products with all rows."""
    arrays = [a for a in x[:-1] if a is not None]
    elements = x.key.size + x.value.size
    return pl.CostEstimate(
        flops=2 * rows * elements,
        transcendentals=rows * x.key.shape[0] * x.key.shape[1],
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in arrays) + x.q.size * x.q.dtype.itemsize,
    )


def _bias_spec(plan: TpuDecodePlan, shape: tuple[int, ...], block_index: Callable) -> pl.BlockSpec:
    examples, queries, heads, _ = shape
    block = (None, queries, plan.rows if heads > 1 else 1, plan.block_keys)
    return pl.BlockSpec(block, lambda b, j, blocks: (b if examples > 1 else 0, 0, 0, block_index(b, j, blocks)))


def _kernel(plan: TpuDecodePlan, refs: Refs) -> None:
    b, j = pl.program_id(0), pl.program_id(1)
    block = refs["blocks"][0, b] + j

    @pl.when(j == 0)
    def _():
        refs["queries"][...] = _block_diagonal(plan, refs["q"][...]).astype(refs["queries"].dtype)
        refs["max"][...] = jnp.full(refs["max"].shape, MASK_VALUE, jnp.float32)
        refs["sum"][...] = jnp.zeros(refs["sum"].shape, jnp.float32)
        refs["acc"][...] = jnp.zeros(refs["acc"].shape, jnp.float32)

    @pl.when(block <= refs["blocks"][1, b])
    def _():
        _add_block(plan, refs, plan.length - block * plan.block_keys)

    @pl.when(j == pl.num_programs(1) - 1)
    def _():
        score_max, exp_sum = refs["max"][:, :1], refs["sum"][:, :1]
        acc = refs["acc"][...] * jnp.where(score_max > NO_VISIBLE_KEY, 1.0 / exp_sum, 0.0)
        refs["o"][...] = _select_head_columns(plan, acc).astype(refs["o"].dtype)


def _add_block(plan: TpuDecodePlan, refs: Refs, num_keys: Index) -> None:
    """Adds one block of keys to the online softmax. num_keys: keys from the block's first one to the last of all."""
    queries, value = refs["queries"][...], refs["value"][...].astype(refs["queries"].dtype)
    scores = queries_by_keys(queries, refs["key"][...].astype(queries.dtype))
    if "key_scale" in refs:
        scores = scores * _repeat_for_rows(plan, refs["key_scale"][...])
    if "bias" in refs:
        scores = scores + jnp.concatenate(
            [jnp.broadcast_to(refs["bias"][t], (plan.rows, plan.block_keys)) for t in range(plan.queries)]
        )
    if plan.is_ragged:
        scores = jnp.where(jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) < num_keys, scores, MASK_VALUE)
        value = jnp.where(jax.lax.broadcasted_iota(jnp.int32, value.shape, 0) < num_keys, value, jnp.zeros_like(value))
    old_max = refs["max"][:, :1]
    score_max = jnp.maximum(old_max, scores.max(axis=1, keepdims=True))
    weights, correction = jnp.exp2(scores - score_max), jnp.exp2(old_max - score_max)
    refs["max"][...] = jnp.broadcast_to(score_max, refs["max"].shape)
    refs["sum"][...] = refs["sum"][...] * correction + weights.sum(axis=1, keepdims=True)
    if "value_scale" in refs:
        weights = weights * _repeat_for_rows(plan, refs["value_scale"][...])
        if plan.is_ragged:
            weights = jnp.where(scores > NO_VISIBLE_KEY, weights, 0.0)
    refs["acc"][...] = refs["acc"][...] * correction + queries_by_width(weights.astype(value.dtype), value)


def _repeat_for_rows(plan: TpuDecodePlan, scale: jax.Array) -> jax.Array:
    """[G or more, keys] -> [T * rows, keys]."""
    if plan.group > 1:
        padding = jnp.zeros((plan.rows - plan.heads, scale.shape[1]), scale.dtype)
        scale = jnp.concatenate([*[scale[: plan.key_heads]] * plan.group, *([padding] if len(padding) else [])])
    return jnp.concatenate([scale] * plan.queries)


def _head_columns(plan: TpuDecodePlan, width: int) -> list[jax.Array]:
    """For each of a group's query heads bool [rows, width]: whether a column belongs to the key head of its rows."""
    row = jax.lax.broadcasted_iota(jnp.int32, (plan.rows, width), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (plan.rows, width), 1)
    head_width, masks = width // plan.key_heads, []
    for r in range(plan.group):
        first = (row - r * plan.key_heads) * head_width
        masks.append((column >= first) & (column < first + head_width))
    return masks


def _block_diagonal(plan: TpuDecodePlan, q: jax.Array) -> jax.Array:
    """[T*R, G*K] -> float32 [T * rows, G*K]."""
    columns, blocks = _head_columns(plan, q.shape[1]), []
    for t in range(plan.queries):
        block: jax.Array | float = 0.0
        for r, mine in enumerate(columns):
            i = t * plan.group + r
            block = jnp.where(mine, q[i : i + 1].astype(jnp.float32), block)
        blocks.append(block)
    return jnp.concatenate(blocks)


def _select_head_columns(plan: TpuDecodePlan, acc: jax.Array) -> jax.Array:
    """[T * rows, G*Kv] -> [T*R, G*Kv]: of every row the columns of its key head."""
    columns = _head_columns(plan, acc.shape[1])
    parts = [acc[t * plan.rows : (t + 1) * plan.rows] for t in range(plan.queries)]
    return jnp.concatenate(
        [jnp.where(mine, part, 0.0).sum(axis=0, keepdims=True) for part in parts for mine in columns]
    )
