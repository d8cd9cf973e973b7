"""Predicted memory of an index on each device."""

import jax
import numpy as np
import pytest

import jaxmodels as jm
from experiments import encoding


def test_predicted_bytes_match_the_index():
    mesh = jax.make_mesh((8,), ("rows",))
    for dtype in ("float32", "bfloat16", "int8"):
        index = jm.DenseIndex.abstract(100_003, 24, mesh, dtype=dtype)
        held = sum(np.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(index))
        assert encoding.bytes_per_device(100_003, 24, 8, index.dtype) == held


def test_memory_table_for_wikipedia():
    table = encoding.memory_table(
        encoding.WIKIPEDIA, 768, ("v5e:1x1", "v5e:16x16", "v6e:1x1", "v4:1x1x1", "tpu7x:1x1x1")
    )
    cells = [line.split() for line in table.splitlines()]
    assert cells[0][-4:] == ["768:", "MiB", "per", "device"] and cells[1] == ["float32", "bfloat16", "int8"]
    assert cells[2] == ["v5e:1x1", "too", "much", "too", "much", "15,472.3"]
    assert cells[3] == ["v5e:16x16", "240.8", "120.4", "60.5"]
    assert cells[4][3] == cells[5][3] == "30,784.3"
    # A chip with two devices, each of which has half of the rows.
    assert cells[6][1:] == ["30,784.5", "15,392.2", "7,736.2"]


def test_unknown_topology_is_rejected():
    with pytest.raises(ValueError, match="a kind of v4, v5e, v5p, v6e, tpu7x, such as v5e:16x16; got 'v9:1x1'"):
        encoding.memory_table(10, 8, ("v9:1x1",))


def test_duration_is_formatted_in_a_suitable_unit():
    assert encoding.format_duration(90) == "90 seconds" and encoding.format_duration(7 * 86_400) == "7.0 days"
