"""Extremely large numbers and long names from files and callers: a short error without delay, or no effect."""

import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.core import FrozenDict

import jaxmodels as jm
from experiments.command import _wrong_seed
from jaxmodels.messages import brief, truncate
from jaxmodels.retrieval.rows import validate_dtype
from jaxmodels.sharding import make_mesh
from jaxmodels.tokenization.dpr import best_spans

HUGE = 10**30


def named(value):
    """Return the id of a case, since pytest's default contains the value."""
    return f"{type(value).__name__} {brief(value)[:20]}"


def each(name, values):
    return pytest.mark.parametrize(name, values, ids=named)


@pytest.fixture(scope="module")
def index():
    return jm.DenseIndex(np.eye(5, 4, dtype=np.float32))


def cyclic():
    items = []
    items.append(items)
    return items


def deep(levels=5000):
    items = []
    for _ in range(levels):
        items = [items]
    return items


@each(
    "value",
    [
        "x" * 10**7,
        b"x" * 10**6,
        list(range(10**6)),
        {i: "x" * 1000 for i in range(1000)},
        FrozenDict({str(i): {"x" * 1000: 1} for i in range(1000)}),
        10**10_000,
        [10**10_000],
        cyclic(),
        deep(),
        "\0\n" * 1000,
        np.zeros((1000, 1000)),
    ],
)
def test_a_value_in_a_message_is_short(value):
    assert len(brief(value)) <= 120 and "\n" not in brief(value)


def test_a_short_value_in_a_message_is_its_repr():
    for value in ("x", 5, [1, "a"], {"a": None}, (1.5,), None, True, FrozenDict({"a": 1})):
        assert brief(value) == repr(dict(value) if isinstance(value, FrozenDict) else value)
    assert truncate("x" * 200, 50) == "x" * 47 + "..."


def one_error(call, *kinds):
    with pytest.raises(kinds or ValueError) as caught:
        call()
    message = str(caught.value)
    assert 20 < len(message) <= 500
    return message


@each(
    "axes",
    [
        {"data": 0},
        {"data": -2},
        {"data": 0, "model": -1},
        {"data": -1, "model": -1},
        {"data": 8.0},
        {"data": True},
        {"data": "8"},
        {"data": None},
        {"data": HUGE},
        {"x" * 10**6: 3},
        {},
    ],
)
def test_a_mesh_of_sizes_that_are_none_is_refused(axes):
    assert "mesh" in one_error(lambda: make_mesh(axes))


def test_a_mesh_of_no_devices_is_refused():
    assert "0 devices" in one_error(lambda: make_mesh({"data": -1}, []))


@each(
    "queries",
    [
        np.zeros((0, 4)),
        np.zeros((0, 0)),
        np.zeros((2, 0)),
        [],
        [[]],
        None,
        "x" * 10**6,
        [["a"] * 4],
        np.zeros((2, 4), bool),
        np.zeros((2, 4), object),
        np.zeros((2, 4), complex),
        jnp.zeros((0, 4)),
    ],
)
def test_queries_that_are_none_are_refused(index, queries):
    for search in (index.search, index.search_approximate, jax.jit(index.search, static_argnums=1)):
        if search in (index.search, index.search_approximate) or isinstance(queries, jax.Array):
            assert "queries" in one_error(lambda search=search: search(queries, 2))


@each("k", [0, -1, 6, HUGE, 10**5000, True, 2.0, "2" * 10**6, None])
def test_a_number_of_hits_that_is_none_is_refused(index, k):
    assert "between 1 and the 5 rows" in one_error(lambda: index.search(np.ones((1, 4)), k))


@each("dtype", ["object", "float128", "nonsense", "x" * 10**6, None, 5, [], np.float64, object])
def test_a_type_that_no_index_has_is_refused(dtype):
    assert "float32, bfloat16, int8" in one_error(lambda: validate_dtype(dtype))


@each("most", [3, 10**9, HUGE, sys.maxsize])
def test_answers_longer_than_the_passage_are_those_as_long_as_it(most):
    start, end = np.array([1.0, 5.0, 2.0]), np.array([3.0, 0.0, 4.0])
    assert best_spans(start, end, most, 10**9) == best_spans(start, end, 3, 3) == [(1, 2), (0, 0)]
    assert best_spans(start[:0], end[:0], most, 3) == []


@each("seed", [-1, 2**32, 2**63, HUGE, 10**5000, 1.0, True, "x" * 10**6, None])
def test_a_seed_beyond_32_bits_is_refused(seed):
    assert len(_wrong_seed(ml_collections.FrozenConfigDict({"seed": seed}))) <= 500


def test_other_seeds_are_fine():
    for config in ({"seed": 0}, {"seed": 2**32 - 1}, {}):
        assert _wrong_seed(ml_collections.FrozenConfigDict(config)) is None
