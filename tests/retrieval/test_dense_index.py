"""Exact and approximate search on one or several devices, updates of rows, and error messages."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.index_samples import MESHES, brute_force, normal, random_integers

from jaxmodels.retrieval import DenseIndex
from jaxmodels.retrieval.search import best_of_shard
from jaxmodels.sharding import FSDP_TP, make_mesh, use


def make_index(name, embeddings, **options) -> DenseIndex:
    mesh, axes = MESHES[name]()
    return DenseIndex(embeddings, mesh=mesh, axes=axes, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mesh", MESHES)
def test_search_matches_brute_force_and_orders_ties_by_id(mesh, dtype):
    rows, queries = random_integers(1500, 16), random_integers(5, 16, seed=1)
    scores, ids = make_index(mesh, rows, dtype=dtype).search(queries, 40)
    expected_scores, expected_ids = brute_force(rows, queries, 40)
    assert len(np.unique(expected_scores[0])) < 30, "too few ties to see their order"
    assert (scores.dtype, ids.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


# Rows below one tile of a shard, k above the rows of a shard, k = all rows.
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (10, 10), (127, 5), (129, 129), (1025, 400), (3000, 1), (3000, 3000)])
@pytest.mark.parametrize("mesh", ["one", "eight"])
def test_search_handles_any_number_of_rows_and_results(mesh, rows, k):
    table, queries = random_integers(rows, 8), random_integers(3, 8, seed=1)
    results = make_index(mesh, table).search(queries, k)
    for actual, expected in zip(results, brute_force(table, queries, k), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("k", [3, 130])
@pytest.mark.parametrize("rows", [2048, 2000, 1919])
def test_spans_and_blocks_are_merged_in_order(rows, k):
    # Only the padding would have a score of zero.
    table, queries = -np.abs(random_integers(rows, 8)) - 1, np.abs(random_integers(4, 8, seed=1)) + 1
    index = DenseIndex(table)
    run = jax.jit(partial(best_of_shard, index.layout, k=k, block=256, score_bytes=4 * 4 * 384))
    scores, ids = run(index.values, index.scales, queries)
    np.testing.assert_array_equal(ids, brute_force(table, queries, k)[1])
    np.testing.assert_array_equal(scores, brute_force(table, queries, k)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_results_are_bitwise_equal_on_every_mesh(dtype):
    rows = normal(3001, 48)
    rows[[2000, 2999]] = rows[7]
    queries = np.concatenate([rows[[7]], normal(4, 48, seed=1)])
    reference = make_index("one", rows, dtype=dtype).search(queries, 60)
    assert np.asarray(reference[1])[0, :3].tolist() == [7, 2000, 2999]
    for mesh in list(MESHES)[1:]:
        for actual, expected in zip(make_index(mesh, rows, dtype=dtype).search(queries, 60), reference, strict=True):
            np.testing.assert_array_equal(actual, expected, err_msg=mesh)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_scores_are_inner_products_with_the_stored_rows(dtype):
    rows, queries = normal(700, 64), normal(6, 64, seed=1)
    index = make_index("eight", rows, dtype=dtype)
    stored = np.asarray(index.vectors(np.arange(700)))
    np.testing.assert_allclose(stored, rows, atol={"float32": 0, "bfloat16": 0.017, "int8": 0.019}[dtype])
    scores, ids = index.search(queries, 20)
    expected, expected_ids = brute_force(stored, queries, 20)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ids, expected_ids)


def test_int8_rows_use_the_full_range_and_zero_rows_stay_zero():
    rows = np.array([[0.5, -1.0], [0, 0], [3e-30, 1e-30], [200, 100]], np.float32)
    index = DenseIndex(rows, dtype="int8")
    np.testing.assert_array_equal(index.values[:4], [[64, -127], [0, 0], [127, 42], [127, 64]])
    np.testing.assert_allclose(index.vectors(np.arange(4)), rows, rtol=0.01)


@pytest.mark.parametrize(("rows", "k"), [(300, 300), (1999, 3)])
@pytest.mark.parametrize("mesh", ["one", "four of eight"])
def test_padding_is_never_returned_when_all_scores_are_negative(mesh, rows, k):
    table, queries = -np.abs(random_integers(rows, 8)) - 1, np.ones((2, 8), np.float32)
    scores, ids = make_index(mesh, table).search(queries, k)
    np.testing.assert_array_equal(ids, brute_force(table, queries, k)[1])
    np.testing.assert_array_equal(scores, brute_force(table, queries, k)[0])
    _, ids = make_index(mesh, table).search_approximate(queries, k)
    assert np.asarray(ids).max() < rows


@pytest.mark.parametrize("mesh", ["one", "eight"])
def test_an_index_is_a_pytree_argument_under_jit(mesh):
    rows, queries = random_integers(600, 8), random_integers(3, 8, seed=1)
    index = make_index(mesh, rows, dtype="int8")

    @jax.jit
    def run(index, queries):
        scores, ids = index.search(queries, 7)
        return scores, ids, index.vectors(ids)

    scores, ids, vectors = run(index, queries)
    for actual, expected in zip((scores, ids), index.search(queries, 7), strict=True):
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(vectors, index.vectors(ids))
    again = jax.tree.map(lambda x: x, index)
    assert (again.size, again.width, again.layout) == (600, 8, index.layout)
    assert run._cache_size() == 1 and run(again, queries) and run._cache_size() == 1


def test_an_index_can_be_built_under_jit():
    rows, mesh = normal(500, 8), make_mesh({"data": 8})
    for dtype in ("float32", "bfloat16", "int8"):
        index = jax.jit(lambda rows, dtype=dtype: DenseIndex(rows, mesh=mesh, dtype=dtype))(rows)
        expected = DenseIndex(rows, mesh=mesh, dtype=dtype)
        assert {shard.data.shape for shard in index.values.addressable_shards} == {(128, 8)}
        np.testing.assert_allclose(index.vectors(np.arange(500)), expected.vectors(np.arange(500)), rtol=0.01)


@pytest.mark.parametrize("mesh", MESHES)
def test_an_index_works_inside_the_mesh_of_a_model(mesh):
    rows, queries = random_integers(600, 8), random_integers(3, 8, seed=1)
    scores, ids = brute_force(rows, queries, 7)
    with use(make_mesh({"data": 4, "model": 2}), FSDP_TP):
        index = make_index(mesh, np.zeros_like(rows), dtype="int8").update_rows(0, rows)
        found, vectors = index.search(queries, 7), index.vectors(np.arange(600))
        layout = index.layout
        if layout.mesh is None or layout.mesh.size == 8:  # a program runs on the devices of the context mesh
            for actual, expected in zip(jax.jit(lambda i: i.search(queries, 7))(index), found, strict=True):
                np.testing.assert_array_equal(actual, expected)
    np.testing.assert_allclose(vectors, rows, rtol=0.01, atol=0.05)
    np.testing.assert_allclose(found[0], scores, rtol=0.05)
    with use(make_mesh({"data": 4, "model": 2}), FSDP_TP):
        exact = make_index(mesh, rows)
        for actual, expected in zip(exact.search(queries, 7), (scores, ids), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_every_device_holds_only_its_shard():
    index = make_index("four of eight", normal(3000, 8), dtype="int8")
    assert {shard.data.shape for shard in index.values.addressable_shards} == {(768, 8)}
    assert {shard.data.shape for shard in index.scales.addressable_shards} == {(768,)}


def approximate_reductions(jaxpr) -> list[dict]:
    """The parameters of every approx_top_k in a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "approx_top_k":
            found.append(equation.params)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            found += approximate_reductions(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("mesh", ["one", "two", "eight"])
def test_approximate_search_targets_the_recall_over_all_rows_not_one_shard(mesh):
    index = make_index(mesh, random_integers(2000, 8))
    program = jax.make_jaxpr(lambda index, q: index.search_approximate(q, 10, recall_target=0.8))(
        index, np.ones((2, 8))
    )
    reductions = approximate_reductions(program.jaxpr)
    assert reductions
    for parameters in reductions:
        assert parameters["recall_target"] == 0.8
        assert parameters["reduction_input_size_override"] == index.layout.stored_rows >= 2000


@pytest.mark.parametrize("mesh", ["one", "eight"])
def test_approximate_search_finds_most_true_results(mesh):
    rows, queries = normal(4000, 16), normal(8, 16, seed=1)
    scores, ids = map(np.asarray, make_index(mesh, rows).search_approximate(queries, 50))
    expected = brute_force(rows, queries, 50)[1]
    recalls = [len({*found} & {*true}) / 50 for found, true in zip(ids.tolist(), expected.tolist(), strict=True)]
    assert np.mean(recalls) > 0.9
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ rows.T, ids, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("mesh", ["one", "eight"])
@pytest.mark.parity("A14")
def test_vectors_of_missing_hits_are_zeros(mesh):
    rows = normal(300, 8)
    vectors = make_index(mesh, rows).vectors([[3, -1], [299, 0]])
    np.testing.assert_array_equal(vectors, [[rows[3], 0 * rows[3]], [rows[299], rows[0]]])


def buffer_pointers(index):
    return [shard.data.unsafe_buffer_pointer() for shard in index.values.addressable_shards]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("mesh", ["one", "four of eight", "eight"])
def test_rows_are_replaced_in_place(mesh, dtype):
    rows, new = random_integers(700, 8), random_integers(300, 8, seed=1) + 5
    for ids, positions in [(130, slice(130, 430)), (np.arange(600, 300, -1), np.arange(600, 300, -1))]:
        index = make_index(mesh, rows, dtype=dtype)
        before = buffer_pointers(index)
        updated = index.update_rows(ids, new)
        expected = rows.copy()
        expected[positions] = new
        np.testing.assert_array_equal(updated.values, make_index(mesh, expected, dtype=dtype).values)
        np.testing.assert_allclose(updated.vectors(np.arange(700)), expected, rtol=0.01, atol=0.04)
        assert buffer_pointers(updated) == before, "copied"
        assert index.values.is_deleted()


def test_rows_are_replaced_in_place_under_jit_and_ids_out_of_range_are_dropped():
    index = make_index("eight", random_integers(700, 8))
    before, expected = buffer_pointers(index), np.array(index.vectors(np.arange(700)))
    update = jax.jit(lambda index, ids, rows: index.update_rows(ids, rows), donate_argnums=0)
    updated = update(index, jnp.array([-1, 5, 700, 1023, 5000]), jnp.full((5, 8), 9.0))
    expected[5] = 9
    np.testing.assert_array_equal(updated.vectors(np.arange(700)), expected)
    assert buffer_pointers(updated) == before and not np.asarray(updated.values)[700:].any()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("mesh", ["one", "eight, crosswise"])
def test_from_batches_builds_the_same_index_as_the_constructor(mesh, dtype, known):
    rows = normal(1100, 8)
    (where, axes), cuts = MESHES[mesh](), [0, 1, 300, 300, 999, 1100]
    batches = (np.asfortranarray(rows[a:b]) for a, b in itertools.pairwise(cuts))
    index = DenseIndex.from_batches(batches, rows=1100 if known else None, mesh=where, axes=axes, dtype=dtype)
    expected = make_index(mesh, rows, dtype=dtype)
    assert jax.tree.structure(index) == jax.tree.structure(expected)
    assert jax.tree.all(jax.tree.map(np.array_equal, index, expected))


def test_embeddings_of_other_dtypes_are_accepted():
    rows = random_integers(50, 4)
    for dtype in (np.float64, np.float16, np.int8, jnp.bfloat16):
        np.testing.assert_array_equal(DenseIndex(rows.astype(dtype)).vectors(np.arange(50)), rows)
    np.testing.assert_array_equal(DenseIndex(jnp.asarray(rows)).vectors(np.arange(50)), rows)
    assert DenseIndex(rows.tolist()).search(rows.tolist(), 2)[1].shape == (50, 2)


def test_later_changes_of_the_caller_s_array_have_no_effect():
    rows = np.zeros((4096, 16), np.float32)
    index = DenseIndex(rows)
    rows[:] = 1
    assert not np.asarray(index.values).any()


def with_nan(position):
    rows = np.zeros((300, 4), np.float32)
    rows[position] = np.nan
    return rows


# Call -> pattern of the error message.
INVALID = {
    "k above the rows": (lambda: DenseIndex(np.ones((9, 4))).search(np.ones((1, 4)), 10), "between 1 and the 9 rows"),
    "k of zero": (lambda: DenseIndex(np.ones((9, 4))).search(np.ones((1, 4)), 0), "got 0"),
    "k as a float": (lambda: DenseIndex(np.ones((9, 4))).search(np.ones((1, 4)), 2.0), "got 2.0"),
    "wide query": (lambda: DenseIndex(np.ones((9, 4))).search(np.ones((1, 5)), 1), r"\[batch, 4\].*\(1, 5\)"),
    "one query": (lambda: DenseIndex(np.ones((9, 4))).search(np.ones(4), 1), r"\[batch, 4\].*\(4,\)"),
    "NaN": (lambda: DenseIndex(with_nan((257, 2))), "row 257 .* contain NaN"),
    "NaN in a late batch": (
        lambda: DenseIndex.from_batches([np.ones((5, 4)), with_nan((slice(7, 9), 0))]),
        "row 12 and 1 more .* contain NaN",
    ),
    "infinity": (lambda: DenseIndex(np.full((3, 4), np.inf)), "row 0 .* contain NaN or infinity"),
    "too large": (lambda: DenseIndex(np.full((3, 4), 1e300)), "row 0 and 2 more .* contain NaN or infinity"),
    "NaN in a JAX array": (lambda: DenseIndex(jnp.full((3, 4), jnp.nan)), "row 0 .* contain NaN"),
    "no rows": (lambda: DenseIndex(np.ones((0, 4))), "between 1 and"),
    "no batches": (lambda: DenseIndex.from_batches([]), "no embeddings"),
    "rank 1": (lambda: DenseIndex(np.ones(4)), r"\[rows, width\]"),
    "complex": (lambda: DenseIndex(np.ones((3, 4), complex)), "real numbers, got complex"),
    "strings": (lambda: DenseIndex(np.array([["a"]])), "real numbers, got <U1"),
    "dtype": (lambda: DenseIndex(np.ones((3, 4)), dtype="float16"), "float32, bfloat16, int8, got 'float16'"),
    "axes without mesh": (lambda: DenseIndex(np.ones((3, 4)), axes="data"), "requires a mesh"),
    "unknown axis": (lambda: DenseIndex(np.ones((3, 4)), mesh=make_mesh({"data": 8}), axes="rows"), "no axis 'rows'"),
    "axis twice": (
        lambda: DenseIndex(np.ones((3, 4)), mesh=make_mesh({"a": 8}), axes=("a", "a")),
        "without duplicates",
    ),
    "other width in a batch": (
        lambda: DenseIndex.from_batches([np.ones((5, 4)), np.ones((5, 3))]),
        r"\[rows, 4\], got shape \(5, 3\) from row 5 on",
    ),
    "width differs from the argument": (lambda: DenseIndex.from_batches([np.ones((5, 4))], width=3), r"\[rows, 3\]"),
    "fewer rows than the argument": (lambda: DenseIndex.from_batches([np.ones((5, 4))], rows=6), "rows=6.*hold 5"),
    "more rows than the argument": (lambda: DenseIndex.from_batches([np.ones((5, 4))] * 2, rows=6), "rows=6.*more"),
    "recall": (lambda: DenseIndex(np.ones((9, 4))).search_approximate(np.ones((1, 4)), 1, 1.0), "between 0 and 1"),
    "id": (lambda: DenseIndex(np.ones((9, 4))).vectors([0, 9]), "between -1 and 8, got 0 to 9"),
    "float id": (lambda: DenseIndex(np.ones((9, 4))).vectors([0.0]), "ids must be integers, got float"),
    "id out of range": (
        lambda: DenseIndex(np.ones((9, 4))).update_rows(7, np.ones((3, 4))),
        "between 0 and 8, got 7 to 9",
    ),
    "wrong number of ids": (lambda: DenseIndex(np.ones((9, 4))).update_rows([1, 2], np.ones((3, 4))), "each of 3 rows"),
    "width of new rows": (lambda: DenseIndex(np.ones((9, 4))).update_rows(0, np.ones((3, 5))), r"\[rows, 4\]"),
    "NaN in new rows": (lambda: DenseIndex(np.ones((9, 4))).update_rows(0, np.full((2, 4), np.nan)), "row 0 and"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise(case):
    call, message = INVALID[case]
    with pytest.raises(ValueError, match=message):
        call()
