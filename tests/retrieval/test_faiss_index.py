"""FaissIndex has the interface of DenseIndex."""

import sys

import numpy as np
import pytest
from support.index_samples import brute_force, normal

from jaxmodels.retrieval import FaissIndex

ROWS, QUERIES = normal(200, 8), normal(3, 8, seed=1)


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'jaxmodels[faiss]'")


def write_index(faiss, path, index, rows=ROWS):
    index.add(rows)
    faiss.write_index(index, str(path))
    return path


@pytest.mark.parity("A13")
def test_a_flat_index_matches_brute_force(faiss, tmp_path):
    index = FaissIndex.load(write_index(faiss, tmp_path / "x", faiss.IndexFlatIP(8)))
    assert (index.size, index.width) == (200, 8)
    scores, ids = index.search(QUERIES, 10)
    expected, expected_ids = brute_force(ROWS, QUERIES, 10)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_array_equal(index.vectors([[3, -1], [199, 0]]), [[ROWS[3], 0 * ROWS[3]], [ROWS[199], ROWS[0]]])


@pytest.mark.parity("A13")
def test_the_additional_dimension_of_DPR_is_removed(faiss, tmp_path):
    """Source: DPR's faiss_indexers.py: x -> (x, sqrt(phi - |x|^2)), so that L2 order is the order of inner products."""
    squares = (ROWS**2).sum(axis=1, keepdims=True)
    longer = np.concatenate([ROWS, np.sqrt(squares.max() - squares)], axis=1).astype(np.float32)
    index = FaissIndex.load(write_index(faiss, tmp_path / "x", faiss.IndexHNSWFlat(9, 32), longer), width=8)
    scores, ids = index.search(QUERIES, 10)
    expected, expected_ids = brute_force(ROWS, QUERIES, 10)
    assert np.mean(ids == expected_ids) > 0.9
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ ROWS.T, ids, 1), rtol=1e-4, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_array_equal(index.vectors(ids[0]), ROWS[ids[0]])


@pytest.mark.parity("A14")
def test_missing_hits_have_id_minus_one(faiss):
    quantizer = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFFlat(quantizer, 8, 20, faiss.METRIC_INNER_PRODUCT)
    index.train(ROWS)
    index.add(ROWS)
    index.make_direct_map()
    scores, ids = FaissIndex(index).search(QUERIES, 100)
    assert (ids[:, -1] == -1).all() and (scores[:, -1] == -np.inf).all() and (ids[:, 0] >= 0).all()
    assert not FaissIndex(index).vectors(ids)[:, -1].any()


def test_invalid_arguments_raise(faiss, tmp_path):
    index = FaissIndex.load(write_index(faiss, tmp_path / "x", faiss.IndexFlatIP(8)))
    for call, message in [
        (lambda: index.search(QUERIES, 201), "between 1 and the 200 rows"),
        (lambda: index.search(QUERIES[:, :7], 1), r"\[batch, 8\]"),
        (lambda: index.vectors([200]), "between -1 and 199"),
        (lambda: FaissIndex.load(tmp_path / "x", width=6), "have width 8, expected 6 or one more"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="no faiss index"):
        FaissIndex.load(tmp_path / "nowhere")


def test_without_faiss_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'jaxmodels\[faiss\]'"):
        FaissIndex.load(tmp_path / "x")
