"""Examples of a batch some at a time."""

import jax
import jax.numpy as jnp

from pallas_kernels.shards import attention_specs

# Of an array. A larger one comes from the system anew every time (glibc's malloc), and to touch it first takes as long
# as its products: the scores of 32 texts of 256 tokens and 12 heads are 100 MB in every layer.
MOST_BYTES = 32 * 2**20
MOST_PARTS = 16  # each has code of its own


def at_a_time(q, k, most_bytes: int = MOST_BYTES) -> int:
    """How many examples have float32 scores of at most `most_bytes`; more where that would be too many parts."""
    (B, T, H, _), S = q.shape, k.shape[1]
    return max(most_bytes // max(4 * H * T * S, 1), -(-B // MOST_PARTS))


def some_at_a_time(attend, q, k, v, mask, biases, most_bytes: int = MOST_BYTES):
    """`attend(q, k, v, mask, biases)`, [B, T, H, Kv], of so many examples after the other."""
    arguments, count = (q, k, v, mask, biases), at_a_time(q, k, most_bytes)
    if count >= len(q):
        return attend(*arguments)
    *specs, _, _ = attention_specs("examples", None, *arguments, None, None)[0]

    def part(first: int):
        def own(x, spec):
            return x[first : first + count] if tuple(spec)[:1] == ("examples",) else x

        return attend(*jax.tree.map(own, arguments, tuple(specs)))

    return jnp.concatenate([part(first) for first in range(0, len(q), count)])
