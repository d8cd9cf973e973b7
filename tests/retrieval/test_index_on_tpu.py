"""Search over Wikipedia's 21 million passages, compiled for a TPU slice; requires libtpu but no TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

import jaxmodels as jm
from jaxmodels import estimate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"),
]
PASSAGES, WIDTH, CHIPS = 21_015_300, 768, 256


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_21_million_passages_on_256_chips(dtype, size):
    mesh = estimate.topology_mesh("v5e:16x16", {"rows": CHIPS})
    index = jm.DenseIndex.abstract(PASSAGES, WIDTH, mesh, dtype=dtype)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    queries = jax.ShapeDtypeStruct((32, WIDTH), jnp.float32, sharding=replicated)
    compiled = jax.jit(lambda index, queries: index.search(queries, 100)).lower(index, queries).compile()
    memory = compiled.memory_analysis()
    rows = PASSAGES * WIDTH * size / CHIPS
    assert rows < memory.argument_size_in_bytes < 1.02 * rows + 2**20, "each chip holds only its rows"
    assert memory.temp_size_in_bytes < 64 * 2**20, "the scores of all rows are never stored at once"
    assert "all-gather" in compiled.as_text() or "all-reduce" in compiled.as_text(), "shards merge their results"
