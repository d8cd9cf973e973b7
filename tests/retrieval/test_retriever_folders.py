"""RagRetriever.from_pretrained and save_pretrained: which index a config refers to, and what is saved."""

import json
import pickle
import shutil

import numpy as np
import pyarrow
import pytest
from support.index_samples import normal
from support.tiny import sizes

import jaxmodels as jm
from jaxmodels.retrieval import FaissIndex, write_folder
from jaxmodels.retrieval.array_pickle import LEGACY_GRAPH, LEGACY_IDS, LEGACY_PASSAGES
from jaxmodels.tensor_files import TensorFileError

ROWS, WIDTH = 40, 8
VECTORS = normal(ROWS, WIDTH)
PASSAGES = [(f"title {i}", f"text {i}") for i in range(ROWS)]
QUERIES = normal(3, WIDTH, seed=1)
QUESTION_IDS = np.array([[101, 7592, 102]] * 3)


@pytest.fixture(scope="module")
def tokenizers(data_dir):
    folders = {name: data_dir / "tokenizers" / name for name in ("bert-base-uncased", "roberta-base")}
    question = jm.load_tokenizer(folders["bert-base-uncased"], cls=jm.DPRQuestionEncoderTokenizer)
    return question, jm.load_tokenizer(folders["roberta-base"], cls=jm.BartTokenizer)


@pytest.fixture(scope="module")
def config():
    parts = jm.DPRConfig(**sizes("DPR")), jm.BartConfig(**sizes("Bart"))
    values = {"n_docs": 4, "max_combined_length": 12, "retrieval_vector_size": WIDTH}
    return jm.RagConfig.from_question_encoder_generator_configs(*parts, **values)


@pytest.fixture(scope="module")
def rag(config, tokenizers, tmp_path_factory):
    """A folder with a config and two tokenizers."""
    folder = tmp_path_factory.mktemp("rag")
    config.save_pretrained(folder)
    jm.RagTokenizer(*tokenizers).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    write_folder(folder, [VECTORS], PASSAGES)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The layout of `datasets`: an Arrow stream, and state.json with its name."""
    folder = tmp_path_factory.mktemp("dataset")
    titles, texts = zip(*PASSAGES, strict=True)
    arrow_type = pyarrow.list_(pyarrow.float32())
    table = pyarrow.table({"title": titles, "text": texts, "embeddings": pyarrow.array(list(VECTORS), arrow_type)})
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A flat faiss index of the vectors."""
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'jaxmodels[faiss]'")
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(VECTORS)
    path = tmp_path_factory.mktemp("graph") / "flat.faiss"
    faiss.write_index(flat, str(path))
    return path


def retrieve(retriever) -> dict:
    """Returns what it finds for the questions."""
    return {name: np.asarray(value) for name, value in retriever(QUESTION_IDS, QUERIES).items()}


def check_results(retriever) -> None:
    best = np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")[:, :4]
    found = retrieve(retriever)
    np.testing.assert_array_equal(found["doc_ids"], best)
    np.testing.assert_allclose(found["retrieved_doc_embeds"], VECTORS[best], atol=1e-6)
    assert retriever.document(int(best[0, 0])) == PASSAGES[best[0, 0]]


def test_custom_with_an_index_folder(rag, index):
    retriever = jm.RagRetriever.from_pretrained(rag, index_name="custom", passages_path=index)
    assert isinstance(retriever.index, jm.DenseIndex) and retriever.config.n_docs == 4
    check_results(retriever)
    check_results(jm.RagRetriever.from_pretrained(rag, index_name="custom", passages_path=str(index), index_path=index))


@pytest.mark.parity("A13")
def test_custom_with_a_dataset_and_a_faiss_file(rag, dataset, graph):
    options = {"index_name": "custom", "passages_path": str(dataset)}
    found = jm.RagRetriever.from_pretrained(str(rag), **options, index_path=str(graph))
    assert isinstance(found.index, FaissIndex)
    check_results(found)
    check_results(jm.RagRetriever.from_pretrained(rag, **options))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parity("A13")
def test_exact_and_compressed_read_a_dataset_folder(rag, dataset, graph, split, tmp_path):
    options = {"dataset": dataset}
    if split:
        shutil.copytree(dataset, tmp_path / "all/validation")
        (tmp_path / "all/dataset_dict.json").write_text('{"splits": ["validation"]}')
        options = {"dataset": tmp_path / "all", "dataset_split": "validation"}
    check_results(jm.RagRetriever.from_pretrained(rag, index_name="exact", **options))
    check_results(jm.RagRetriever.from_pretrained(rag, index_name="compressed", index_path=graph, **options))


@pytest.mark.parity("A13")
def test_legacy_reads_a_folder_of_three_files(rag, tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'jaxmodels[faiss]'")
    squares = (VECTORS**2).sum(axis=1, keepdims=True)
    longer = faiss.IndexHNSWFlat(WIDTH + 1, 16)
    longer.add(np.concatenate([VECTORS, np.sqrt(squares.max() - squares)], axis=1).astype(np.float32))
    faiss.write_index(longer, str(tmp_path / LEGACY_GRAPH))
    (tmp_path / LEGACY_IDS).write_bytes(pickle.dumps([str(i) for i in range(ROWS)]))
    (tmp_path / LEGACY_PASSAGES).write_bytes(
        pickle.dumps({str(i): (text, title) for i, (title, text) in enumerate(PASSAGES)})
    )
    check_results(jm.RagRetriever.from_pretrained(rag, index_name="legacy", index_path=tmp_path))


class IndexedDataset(list):
    """Has the interface of a `datasets.Dataset` with an index."""

    column_names = ("title", "text", "embeddings")

    def __init__(self, index):
        super().__init__({"title": title, "text": text} for title, text in PASSAGES)
        self.faiss_index = index

    def get_index(self, name):
        assert name == "embeddings"
        return self


@pytest.mark.parity("A13", "A17")
def test_an_indexed_dataset_is_saved(rag, graph, tmp_path):
    import faiss

    retriever = jm.RagRetriever.from_pretrained(rag, IndexedDataset(faiss.read_index(str(graph))))
    check_results(retriever)
    retriever.save_pretrained(tmp_path)
    again = jm.RagRetriever.from_pretrained(tmp_path)
    assert isinstance(again.index, FaissIndex)
    check_results(again)
    with pytest.raises(TypeError, match="indexed_dataset must be a datasets.Dataset"):
        jm.RagRetriever.from_pretrained(rag, PASSAGES)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parity("A17")
def test_a_saved_retriever_returns_the_same_documents_after_a_move(config, tokenizers, dtype, tmp_path, monkeypatch):
    saved = jm.RagRetriever(config, *tokenizers, index=jm.DenseIndex(VECTORS, dtype=dtype), passages=PASSAGES)
    saved.save_pretrained(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    loaded = jm.RagRetriever.from_pretrained("moved")
    expected, found = retrieve(saved), retrieve(loaded)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert list(loaded.passages) == PASSAGES and loaded.index.dtype == dtype
    loaded.save_pretrained(tmp_path / "second")  # as in the reference, an index in files is not copied
    assert not (tmp_path / "second/index").exists()
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(
        retrieve(jm.RagRetriever.from_pretrained(tmp_path / "second"))["doc_ids"], expected["doc_ids"]
    )
    assert isinstance(jm.RagTokenizer.from_pretrained(tmp_path / "second"), jm.RagTokenizer)


def test_a_custom_index_class_is_not_saved(config, tokenizers, tmp_path):
    class CustomIndex:
        size, width = ROWS, WIDTH

    saved = jm.RagRetriever(config, *tokenizers, index=CustomIndex(), passages=PASSAGES)
    with pytest.raises(TypeError, match="a DenseIndex or a FaissIndex can be saved, got CustomIndex"):
        saved.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


INVALID = {
    "dataset of the Hub": ({"index_name": "exact"}, FileNotFoundError, "dataset='wiki_dpr' .*save_to_disk"),
    "dummy dataset": ({"index_name": "exact", "use_dummy_dataset": True}, FileNotFoundError, "use_dummy_dataset=True"),
    "unknown name": ({"index_name": "hnsw"}, ValueError, "index_name must be one of custom, legacy, exact, compressed"),
    "hostile name": ({"index_name": "../../etc/passwd\0"}, ValueError, "index_name must be one of"),
    "name of another type": ({"index_name": ["exact"]}, ValueError, "index_name"),
    "name of None": ({"index_name": None}, ValueError, "index_name"),
    "custom without paths": ({"index_name": "custom"}, ValueError, "requires passages_path="),
    "legacy without a path": ({"index_name": "legacy"}, ValueError, "requires index_path="),
    "path of another type": ({"index_name": "custom", "passages_path": 7}, ValueError, "passages_path"),
    "missing path": ({"index_name": "custom", "passages_path": "/nowhere"}, FileNotFoundError, "passages_path='/nowh"),
    "invalid file name": ({"index_name": "custom", "passages_path": "a\0b"}, FileNotFoundError, "passages_path="),
    "long file name": ({"index_name": "legacy", "index_path": "x" * 9999}, FileNotFoundError, "index_path='x"),
    "device": ({"index_name": "custom", "passages_path": "/dev/zero"}, FileNotFoundError, "no dataset in /dev/zero"),
    "no dataset in the folder": ({"index_name": "exact", "dataset": "/"}, FileNotFoundError, "no dataset in /"),
    "dataset of None": ({"index_name": "exact", "dataset": None}, ValueError, "requires dataset="),
    "no legacy folder": ({"index_name": "legacy", "index_path": "/dev/null"}, FileNotFoundError, "no file /dev/null"),
    "unknown field": ({"index": 3}, ValueError, "has no key 'index'"),
}


@pytest.mark.parametrize("case", INVALID)
@pytest.mark.parity("A13")
def test_missing_indexes_raise_with_what_to_pass(rag, case):
    options, error, message = INVALID[case]
    with pytest.raises(error, match=message):
        jm.RagRetriever.from_pretrained(rag, **options)


@pytest.mark.parity("A13")
def test_inconsistent_fields_raise(rag, dataset, index, graph, tmp_path):
    load = jm.RagRetriever.from_pretrained
    exact, custom = {"index_name": "exact", "dataset": dataset}, {"index_name": "custom", "passages_path": index}
    with pytest.raises(ValueError, match="use_dummy_dataset=True is for a dataset of the Hub"):
        load(rag, **exact, use_dummy_dataset=True)
    with pytest.raises(ValueError, match="dataset_revision='1' is for a dataset of the Hub"):
        load(rag, **exact, dataset_revision="1")
    with pytest.raises(ValueError, match="'compressed' requires index_path="):
        load(rag, index_name="compressed", dataset=dataset)
    with pytest.raises(
        ValueError, match="vectors of width 8, but .*retrieval_vector_size=9; .*pass retrieval_vector_size=8"
    ):
        load(rag, **custom, retrieval_vector_size=9)
    (tmp_path / "noise").write_bytes(b"noise" * 20)
    with pytest.raises(TensorFileError, match="an index written by faiss.write_index"):
        load(rag, **custom, index_path=tmp_path / "noise")
    fewer = tmp_path / "fewer"
    write_folder(fewer, [VECTORS[:7]], PASSAGES[:7])
    with pytest.raises(ValueError, match="the index has 7 rows, got 40 passages"):
        load(rag, **custom, index_path=fewer)
    (tmp_path / "all").mkdir()
    (tmp_path / "all/dataset_dict.json").write_text('{"splits": ["train"]}')
    for split in ("../", "validation", ""):
        with pytest.raises(ValueError, match="is not one of the splits"):
            load(rag, index_name="exact", dataset=tmp_path / "all", dataset_split=split)
