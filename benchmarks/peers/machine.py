"""What this machine can do at most, measured in the same rounds as the peers, because it varies from minute to minute.

Jobs return a rate and not a time: the best of a few attempts, by numpy or by XLA, whichever is faster here.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Job

ATTEMPTS = 3


def bandwidth(folder: str, mib: int) -> Job:
    """Measure memory bandwidth in GB/s: sums and matrix-vector products over an array larger than the caches."""
    rows = mib * 2**20 // 4 // 1024
    on_host = np.ones((rows, 1024), np.float32)
    vector = np.ones(1024, np.float32)
    array, x = jnp.asarray(on_host), jnp.asarray(vector)
    add, multiply = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    ways = [
        lambda: add(array).block_until_ready(),
        lambda: multiply(array, x).block_until_ready(),
        lambda: on_host @ vector,
    ]
    return Job(lambda: on_host.nbytes / 1e9 / _fastest(ways))


def gemm(folder: str, size: int) -> Job:
    """Measure GFLOP/s of a float32 product of two square matrices."""
    on_host = np.ones((size, size), np.float32)
    array, multiply = jnp.asarray(on_host), jax.jit(jnp.matmul)
    ways = [lambda: multiply(array, array).block_until_ready(), lambda: on_host @ on_host]
    return Job(lambda: 2 * size**3 / 1e9 / _fastest(ways))


def _fastest(ways: list[Callable]) -> float:
    """Return the seconds of the fastest attempt of all functions."""
    return min(_seconds(way) for way in ways for _ in range(ATTEMPTS))


def _seconds(way: Callable) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
