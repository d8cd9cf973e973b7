"""Files of the reference's LegacyIndex: ids and passages in pickles, vectors in a faiss graph."""

import pickle

import numpy as np
import pytest
from support.index_samples import brute_force, normal

from jaxmodels.retrieval import DenseIndex, FaissIndex, Passages, import_legacy, legacy_passages
from jaxmodels.retrieval.array_pickle import LEGACY_GRAPH, LEGACY_IDS, LEGACY_PASSAGES, read_legacy_ids
from jaxmodels.tensor_files import TensorFileError

ROWS, WIDTH = 300, 8
VECTORS = normal(ROWS, WIDTH)
ORDER = np.random.default_rng(2).permutation(ROWS) + 1  # passage id of each row
TABLE = {str(i): (f"text {i}", f"title {i}") for i in range(1, ROWS + 20)}
EXPECTED = [(f"title {i}", f"text {i}") for i in ORDER]


def write(folder, ids, passages, protocol=4):
    (folder / LEGACY_IDS).write_bytes(pickle.dumps(ids, protocol))
    (folder / LEGACY_PASSAGES).write_bytes(pickle.dumps(passages, protocol))
    return folder


@pytest.fixture(scope="module")
def legacy(tmp_path_factory):
    """A folder as the reference reads it, with the graph of DPR's indexers: HNSW with 8 bits per number."""
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'jaxmodels[faiss]'")
    folder = write(tmp_path_factory.mktemp("legacy"), [str(i) for i in ORDER], TABLE)
    squares = (VECTORS**2).sum(axis=1, keepdims=True)
    longer = np.concatenate([VECTORS, np.sqrt(squares.max() - squares)], axis=1).astype(np.float32)
    graph = faiss.IndexHNSWSQ(WIDTH + 1, faiss.ScalarQuantizer.QT_8bit, 32)
    graph.train(longer)
    graph.add(longer)
    faiss.write_index(graph, str(folder / LEGACY_GRAPH))
    return folder


@pytest.mark.parity("A13")
def test_a_legacy_index_is_imported_as_an_exact_index(legacy, tmp_path):
    import_legacy(tmp_path, legacy, fingerprint="an encoder")
    index, passages = DenseIndex.load(tmp_path), Passages.load(tmp_path)
    assert (index.size, index.width, index.fingerprint) == (ROWS, WIDTH, "an encoder")
    step = np.ptp(VECTORS, axis=0).max() / 255
    np.testing.assert_allclose(index.values[:ROWS], VECTORS, atol=step)
    assert list(passages) == EXPECTED


@pytest.mark.parity("A13")
def test_a_legacy_index_is_searched_with_faiss(legacy, tmp_path):
    graph, passages = FaissIndex.load(legacy / LEGACY_GRAPH, WIDTH), Passages.write(tmp_path, legacy_passages(legacy))
    queries = normal(3, WIDTH, seed=1)
    _, ids = graph.search(queries, 10)
    assert np.mean(ids == brute_force(VECTORS, queries, 10)[1]) > 0.8  # approximate, with 8 bits per number
    assert passages.take(ids[0]) == [EXPECTED[i] for i in ids[0]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("format_id", [str, int, "wiki:{}".format])
@pytest.mark.parity("A13")
def test_ids_and_passages_of_every_protocol_are_read(protocol, format_id, tmp_path):
    ids = [format_id(i) for i in ORDER.tolist()]
    write(tmp_path, ids, {name: list(passage) for name, passage in TABLE.items()}, protocol)
    assert read_legacy_ids(tmp_path / LEGACY_IDS) == ids
    assert list(legacy_passages(tmp_path)) == EXPECTED


class Attack:
    def __reduce__(self):
        return print, ("x",)


INVALID = {
    "code in the ids": (["1", Attack()], TABLE, "index_meta.dpr: .*a use of 'builtins.print'"),
    "code in the passages": (["1"], {"1": Attack()}, "psgs_w100.tsv.pkl: .*a use of 'builtins.print'"),
    "ids that are no list": ({"1": 0}, TABLE, "index_meta.dpr: .*a pickled list of passage ids"),
    "id that is a float": ([1.5], TABLE, "index_meta.dpr: .*a pickled list of passage ids"),
    "passages that are no dict": (["1"], [("a", "b")], "psgs_w100.tsv.pkl: .*a pickled dict of passages by id"),
    "missing passage": (["1", "0"], TABLE, "has no passage '0', which is row 1"),
    "missing title": (["1"], {"1": ("a",)}, "text and title"),
    "text that is a number": (["1"], {"1": ("a", 3)}, "text and title"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_files_raise(case, tmp_path, capsys):
    ids, passages, message = INVALID[case]
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        list(legacy_passages(write(tmp_path, ids, passages)))
    assert capsys.readouterr().out == ""


def test_truncated_and_missing_files_are_named(tmp_path):
    write(tmp_path, ["1"], TABLE)
    whole = (tmp_path / LEGACY_PASSAGES).read_bytes()
    (tmp_path / LEGACY_PASSAGES).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TensorFileError, match="psgs_w100.tsv.pkl"):
        list(legacy_passages(tmp_path))
    (tmp_path / LEGACY_PASSAGES).unlink()
    with pytest.raises(FileNotFoundError, match=r"psgs_w100.tsv.pkl: a legacy index consists of hf_bert_base"):
        list(legacy_passages(tmp_path))


def test_different_numbers_of_ids_and_vectors_raise(legacy, tmp_path):
    folder = write(tmp_path, [str(i) for i in ORDER[1:]], TABLE)
    (folder / LEGACY_GRAPH).symlink_to(legacy / LEGACY_GRAPH)
    with pytest.raises(ValueError, match="300 embeddings and 299 passages"):
        import_legacy(tmp_path / "index", folder)
