"""The files of the reference's LegacyIndex: ids and passages in pickles, vectors in a graph of faiss."""

import pickle

import numpy as np
import pytest
from support.index_samples import best, normal

from jaxmodels.retrieval import DenseIndex, FaissIndex, Passages, import_legacy, legacy_passages
from jaxmodels.retrieval.legacy import GRAPH, IDS, TEXTS, read_ids
from jaxmodels.tensor_files import TensorFileError

ROWS, WIDTH = 300, 8
VECTORS = normal(ROWS, WIDTH)
ORDER = np.random.default_rng(2).permutation(ROWS) + 1  # the passage's id of each row
TABLE = {str(i): (f"text {i}", f"title {i}") for i in range(1, ROWS + 20)}
EXPECTED = [(f"title {i}", f"text {i}") for i in ORDER]


def write(folder, ids, texts, protocol=4):
    (folder / IDS).write_bytes(pickle.dumps(ids, protocol))
    (folder / TEXTS).write_bytes(pickle.dumps(texts, protocol))
    return folder


@pytest.fixture(scope="module")
def legacy(tmp_path_factory):
    """A folder as the reference reads it, with the graph of DPR's indexers: HNSW over 8 bits a number."""
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'jaxmodels[faiss]'")
    folder = write(tmp_path_factory.mktemp("legacy"), [str(i) for i in ORDER], TABLE)
    squares = (VECTORS**2).sum(axis=1, keepdims=True)
    longer = np.concatenate([VECTORS, np.sqrt(squares.max() - squares)], axis=1).astype(np.float32)
    graph = faiss.IndexHNSWSQ(WIDTH + 1, faiss.ScalarQuantizer.QT_8bit, 32)
    graph.train(longer)
    graph.add(longer)
    faiss.write_index(graph, str(folder / GRAPH))
    return folder


@pytest.mark.parity("A13")
def test_a_legacy_index_as_an_exact_one(legacy, tmp_path):
    import_legacy(tmp_path, legacy, fingerprint="an encoder")
    index, passages = DenseIndex.load(tmp_path), Passages.load(tmp_path)
    assert (index.size, index.width, index.fingerprint) == (ROWS, WIDTH, "an encoder")
    step = np.ptp(VECTORS, axis=0).max() / 255
    np.testing.assert_allclose(index.values[:ROWS], VECTORS, atol=step)
    assert list(passages) == EXPECTED


@pytest.mark.parity("A13")
def test_a_legacy_index_as_it_is(legacy, tmp_path):
    graph, passages = FaissIndex.load(legacy / GRAPH, WIDTH), Passages.write(tmp_path, legacy_passages(legacy))
    queries = normal(3, WIDTH, seed=1)
    _, ids = graph.search(queries, 10)
    assert np.mean(ids == best(VECTORS, queries, 10)[1]) > 0.8  # by approximation, over 8 bits
    assert passages.take(ids[0]) == [EXPECTED[i] for i in ids[0]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [str, int, "wiki:{}".format])
@pytest.mark.parity("A13")
def test_ids_and_passages_of_every_writer_are_read(protocol, kind, tmp_path):
    ids = [kind(i) for i in ORDER.tolist()]
    write(tmp_path, ids, {name: list(passage) for name, passage in TABLE.items()}, protocol)
    assert read_ids(tmp_path / IDS) == ids
    assert list(legacy_passages(tmp_path)) == EXPECTED


class Attack:
    def __reduce__(self):
        return print, ("x",)


BAD = {
    "code among the ids": (["1", Attack()], TABLE, "index_meta.dpr: .*a use of 'builtins.print'"),
    "code among the texts": (["1"], {"1": Attack()}, "psgs_w100.tsv.pkl: .*a use of 'builtins.print'"),
    "no list": ({"1": 0}, TABLE, "index_meta.dpr: .*a pickled list of the passages' ids"),
    "no ids": ([1.5], TABLE, "index_meta.dpr: .*a pickled list of the passages' ids"),
    "no dict": (["1"], [("a", "b")], "psgs_w100.tsv.pkl: .*a pickled dict of passages by id"),
    "no passage": (["1", "0"], TABLE, "has no passage '0', which is row 1"),
    "no title": (["1"], {"1": ("a",)}, "the text and the title"),
    "no texts": (["1"], {"1": ("a", 3)}, "the text and the title"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(case, tmp_path, capsys):
    ids, texts, words = BAD[case]
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        list(legacy_passages(write(tmp_path, ids, texts)))
    assert capsys.readouterr().out == ""


def test_files_that_are_cut_short_or_missing_are_named(tmp_path):
    write(tmp_path, ["1"], TABLE)
    whole = (tmp_path / TEXTS).read_bytes()
    (tmp_path / TEXTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TensorFileError, match="psgs_w100.tsv.pkl"):
        list(legacy_passages(tmp_path))
    (tmp_path / TEXTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"psgs_w100.tsv.pkl: a legacy index has hf_bert_base"):
        list(legacy_passages(tmp_path))


def test_another_number_of_ids_than_of_vectors_is_refused(legacy, tmp_path):
    folder = write(tmp_path, [str(i) for i in ORDER[1:]], TABLE)
    (folder / GRAPH).symlink_to(legacy / GRAPH)
    with pytest.raises(ValueError, match="300 embeddings came with 299 passages"):
        import_legacy(tmp_path / "index", folder)
