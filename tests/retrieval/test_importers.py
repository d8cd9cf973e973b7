"""Import of other programs' files."""

import gzip
import json
import pickle
import struct

import numpy as np
import pyarrow
import pytest
from support.index_samples import normal

from jaxmodels.retrieval import DenseIndex, Passages, import_dataset, import_dpr, import_faiss, write_folder
from jaxmodels.retrieval.array_pickle import read_dpr_embeddings
from jaxmodels.retrieval.importers import FLAT_HEADER, read_passages_tsv
from jaxmodels.tensor_files import TensorFileError

VECTORS = normal(30, 8)
ROWS = [(str(i + 1), f'The "text" of {i}\tand a tab', f"Title {i}") for i in range(30)]


def write_table(path, rows=ROWS, header="id\ttext\ttitle"):
    lines = [header] + ["\t".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_pickle(path, ids, vectors, protocol=4):
    path.write_bytes(pickle.dumps([(i, vector) for i, vector in zip(ids, vectors, strict=True)], protocol))
    return path


def check_folder(folder, dtype="float32"):
    index, passages = DenseIndex.load(folder), Passages.load(folder)
    np.testing.assert_array_equal(index.values, DenseIndex(VECTORS, dtype=dtype).values)
    assert list(passages) == [(title, text) for _, text, title in ROWS]
    names = {path.name for path in folder.iterdir()}
    assert names == {"dense_index.json", "embeddings-00001.safetensors", "passages.arrow"}


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parity("A13")
def test_DPR_embeddings_and_passages_are_imported(protocol, suffix, tmp_path):
    files = [
        write_pickle(tmp_path / "a.pkl", [f"wiki:{i}" for i in range(1, 21)], VECTORS[:20], protocol),
        write_pickle(tmp_path / "b.pkl", range(21, 31), VECTORS[20:], protocol),
    ]
    import_dpr(tmp_path / "index", files, write_table(tmp_path / f"psgs{suffix}"))
    check_folder(tmp_path / "index")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8"])
def test_vectors_of_other_dtypes_and_strides_are_read(dtype, tmp_path):
    vectors = (np.arange(24).reshape(3, 8) / 4).astype(dtype)
    for name, rows in {"rows": vectors, "views": np.asfortranarray(vectors), "numpy 1": vectors}.items():
        path = write_pickle(tmp_path / "x.pkl", ["1", "2", "3"], rows)
        if name == "numpy 1":
            path.write_bytes(path.read_bytes().replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"))
            assert b"numpy._core" not in path.read_bytes()
        ids, actual = read_dpr_embeddings(path)
        assert ids == ["1", "2", "3"] and actual.dtype == np.float32
        np.testing.assert_array_equal(actual, vectors.astype(np.float32))


@pytest.mark.parametrize("damage", ["order", "missing", "surplus", "short file"])
def test_vectors_that_do_not_match_the_table_raise(damage, tmp_path):
    ids = [*range(1, 31)]
    rows = ROWS[:29] if damage == "surplus" else ROWS
    if damage == "order":
        ids[3], ids[4] = ids[4], ids[3]
    count = 29 if damage == "missing" else 30
    path = write_pickle(tmp_path / "a.pkl", ids[:count], VECTORS[:count])
    if damage == "short file":
        path.write_bytes(path.read_bytes()[:-40])
    messages = {
        "order": "expected a vector for passage '4' .*got one for 5.*order of their rows",
        "missing": "29 embeddings and 30 passages",
        "surplus": "for passage None .*got one for 30",
        "short file": "a.pkl: expected",
    }
    with pytest.raises(ValueError, match=messages[damage]):
        import_dpr(tmp_path / "index", [path], write_table(tmp_path / "psgs.tsv", rows))
    assert not any((tmp_path / "index").rglob("*"))


class Attack:
    def __init__(self, call, *arguments):
        self.parts = call, arguments

    def __reduce__(self):
        return self.parts


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


DTYPE = text("numpy") + text("dtype") + b"\x93"
F4 = DTYPE + text("f4") + b"\x89\x88\x87R"
RECONSTRUCT = text("numpy._core.multiarray") + text("_reconstruct") + b"\x93"
NDARRAY = text("numpy") + text("ndarray") + b"\x93"
EMPTY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
FROM_BUFFER = text("numpy._core.numeric") + text("_frombuffer") + b"\x93"


def program(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def state(shape: bytes, kind: bytes, data: bytes) -> bytes:
    return b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


# Content of the file -> pattern of the error message.
HOSTILE = {
    "system": (pickle.dumps([("1", Attack(print, "x"))]), "a use of 'builtins.print'"),
    "eval": (pickle.dumps(Attack(eval, "1+1"), 4), "a use of 'builtins.eval'"),
    "object array": (pickle.dumps([("1", np.array([print], object))]), "f2, f4 or f8, found 'O8'"),
    "array of strings": (pickle.dumps([("1", np.array(["a"]))]), "f2, f4 or f8, found 'U1'"),
    "array of integers": (pickle.dumps([("1", np.arange(3))]), "f2, f4 or f8, found 'i8'"),
    "subclass of array": (pickle.dumps([("1", np.ma.array([1.0]))]), "a use of 'numpy.ma"),
    "other class for _reconstruct": (program(RECONSTRUCT + DTYPE + b"K\x00\x85C\x01b\x87R"), "an empty numpy.ndarray"),
    "state on a function": (program(RECONSTRUCT + b"}b"), "BUILD on an array, found BUILD on a Constructor"),
    "state on the class": (program(NDARRAY + b"}b"), "BUILD on an array, found BUILD on a object"),
    "state on a list": (program(b"]}b"), "BUILD on an array, found BUILD on a list"),
    "state of another type": (program(EMPTY + b"}b"), "version, shape, dtype, order and bytes"),
    "more rows than bytes": (program(EMPTY + state(b"M\xff\xff\x85", F4, b"C\x04abcd")), "262140 bytes .*found 4"),
    "negative shape": (program(EMPTY + state(b"J\xff\xff\xff\xff\x85", F4, b"C\x04abcd")), "non-negative"),
    "huge shape": (
        program(
            EMPTY + state(b"\x8a\x07" + b"\xff" * 6 + b"\x7f" + b"\x8a\x07" + b"\xff" * 6 + b"\x7f\x86", F4, b"C\x00")
        ),
        "less than 2",
    ),
    "string as bytes": (program(EMPTY + state(b"K\x01\x85", F4, text("abcd"))), "the bytes and the dtype"),
    "list as dtype": (program(EMPTY + state(b"K\x01\x85", b"]", b"C\x04abcd")), "the bytes and the dtype"),
    "byte order": (program(F4 + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffK\x00tb"), "byte order < or >"),
    "buffer of numbers": (
        program(FROM_BUFFER + b"(K\x01" + F4 + b"K\x01\x85" + text("C") + b"tR"),
        "the bytes and the dtype",
    ),
    "bytes beyond the file": (program(b"\x8e" + struct.pack("<Q", 2**60)), "more bytes"),
    "no list": (pickle.dumps({"1": VECTORS[0]}), r"a pickled list of \(id, vector\) pairs"),
    "empty list": (pickle.dumps([]), r"a pickled list of \(id, vector\) pairs"),
    "vectors alone": (pickle.dumps([VECTORS[0]]), "at position 0"),
    "no vector": (pickle.dumps([("1", VECTORS[0]), ("2", [1.0])]), "same length, found a list at position 1"),
    "matrix": (pickle.dumps([("1", VECTORS)]), r"shape \(30, 8\) at position 0"),
    "empty array": (program(b"]" + text("1") + EMPTY + b"\x86a"), "found a _Array"),
    "other length": (pickle.dumps([("1", VECTORS[0]), ("2", VECTORS[1][:5])]), r"shape \(5,\) at position 1"),
    "vector as id": (pickle.dumps([(VECTORS[0], VECTORS[0])]), "a tuple at position 0"),
    "no pickle": (b"PK\x03\x04 and so on", "a pickle opcode|opcode"),
    "empty file": (b"", "1 more bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parity("A13")
def test_hostile_pickles_raise(case, tmp_path, capsys):
    data, message = HOSTILE[case]
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=rf"(?s)x\.pkl: expected .*{message}.*"):
        read_dpr_embeddings(path)
    assert capsys.readouterr().out == ""


def write_flat_index(path, vectors, fourcc=b"IxFI", metric=0, **changes):
    rows, width = vectors.shape
    head = {"rows": rows, "count": vectors.size, "width": width, **changes}
    unused = 2**20
    header = FLAT_HEADER.pack(fourcc, head["width"], head["rows"], unused, unused, True, metric, head["count"])
    path.write_bytes(header + vectors.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("fourcc", [b"IxFI", b"IxFl"])
@pytest.mark.parity("A13")
def test_a_flat_faiss_index_is_imported(fourcc, tmp_path):
    import_faiss(
        tmp_path / "index", write_flat_index(tmp_path / "x", VECTORS, fourcc), write_table(tmp_path / "t.tsv"), "int8"
    )
    check_folder(tmp_path / "index", "int8")


@pytest.mark.parity("A13")
def test_a_flat_index_written_by_faiss_is_imported(tmp_path):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(8)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == write_flat_index(tmp_path / "y", VECTORS).read_bytes()
    import_faiss(tmp_path / "index", tmp_path / "x", write_table(tmp_path / "t.tsv"))
    check_folder(tmp_path / "index")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fourcc": b"IxF2", "metric": 1}, "inner products, found an index of L2 distance.*FaissIndex.load"),
        ({"fourcc": b"IHNf"}, "IndexFlatIP .*b'IHNf' at its start.*FaissIndex.load"),
        ({"rows": 31}, "31 rows of 8: 1037 bytes, found"),
        ({"count": 7}, "30 rows of 8"),
        ({"width": -8, "rows": -30}, "rows of -8"),
    ],
)
def test_other_faiss_files_raise(changes, message, tmp_path):
    path = write_flat_index(tmp_path / "x", VECTORS, **changes)
    with pytest.raises(TensorFileError, match=message):
        import_faiss(tmp_path / "index", path, write_table(tmp_path / "t.tsv"))
    assert not (tmp_path / "index").exists()


def write_dataset(folder, arrow_type, cuts=(0, 11, 12, 30), **state):
    """Writes the layout of `datasets`: Arrow streams, and state.json with their names."""
    folder.mkdir()
    names = []
    for i, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
        part = pyarrow.table(
            {
                "title": [row[2] for row in ROWS[start:stop]],
                "text": [row[1] for row in ROWS[start:stop]],
                "embeddings": pyarrow.array(list(VECTORS[start:stop]), arrow_type),
            }
        )
        names.append(f"data-{i:05}-of-{len(cuts) - 1:05}.arrow")
        with pyarrow.ipc.new_stream(str(folder / names[-1]), part.schema) as writer:
            writer.write_table(part, max_chunksize=7)
    description = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("arrow_type", [pyarrow.list_(pyarrow.float32()), pyarrow.list_(pyarrow.float32(), 8)], ids=str)
@pytest.mark.parity("A13")
def test_a_dataset_with_embeddings_is_imported(arrow_type, tmp_path):
    import_dataset(tmp_path / "index", write_dataset(tmp_path / "d", arrow_type))
    check_folder(tmp_path / "index")


def test_invalid_datasets_raise(tmp_path):
    floats = pyarrow.list_(pyarrow.float32())
    with pytest.raises(FileNotFoundError, match="state.json"):
        import_dataset(tmp_path / "index", tmp_path)
    selected = write_dataset(tmp_path / "selected", floats, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ValueError, match="flatten_indices"):
        import_dataset(tmp_path / "index", selected)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="splits train, test"):
        import_dataset(tmp_path / "index", tmp_path)
    cut = write_dataset(tmp_path / "cut", floats, cuts=(0, 30))
    path = cut / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TensorFileError, match="a complete Arrow stream"):
        import_dataset(tmp_path / "index", cut)
    without_embeddings = {"title": ["a"], "text": ["b"], "vectors": [[1.0]]}
    other = write_dataset(tmp_path / "other", floats, cuts=(0, 30))
    for columns, message in [
        (without_embeddings, "no column 'embeddings'; the columns are title, text, vectors"),
        ({"title": ["a"] * 2, "text": ["b"] * 2, "embeddings": [[1.0], [1.0, 2.0]]}, "of different lengths"),
        ({"title": ["a"] * 2, "text": ["b"] * 2, "embeddings": [[1.0], None]}, "missing"),
        ({"title": ["a", None], "text": ["b"] * 2, "embeddings": [[1.0], [2.0]]}, r"passage 1 is \(None, 'b'\)"),
    ]:
        part = pyarrow.table(columns)
        with pyarrow.ipc.new_stream(str(other / "data-00000-of-00001.arrow"), part.schema) as writer:
            writer.write_table(part)
        with pytest.raises(ValueError, match=message):
            import_dataset(tmp_path / "index", other)
    assert not any((tmp_path / "index").rglob("*"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"number\ttext\n", "a header with id, text and title"),
        (b"", "a header with id, text and title"),
        (b"id\ttext\ttitle\n1\ta\tb\n2\ta\n", "line 3: expected 3 columns, got 2"),
        (b"id\ttext\ttitle\n1\t\xff\tb\n", "can't decode byte"),
        (b"id\ttext\ttitle\n1\t" + b"a" * 200_000 + b"\tb\n", "field larger than"),
    ],
)
def test_invalid_tables_raise(data, message, tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_passages_tsv(path))
    cut = tmp_path / "x.tsv.gz"
    cut.write_bytes(gzip.compress(b"id\ttext\ttitle\n1\ta\tb\n" * 100)[:-12])
    with pytest.raises(ValueError, match="download or write it again"):
        list(read_passages_tsv(cut))


def test_reordered_and_additional_columns_are_accepted(tmp_path):
    (tmp_path / "x.tsv").write_text('title\tid\turl\ttext\nA\t7\thttp\t"say ""b"""\n')
    assert list(read_passages_tsv(tmp_path / "x.tsv")) == [("7", "A", 'say "b"')]


def test_invalid_embeddings_write_nothing(tmp_path):
    with_nan = np.where(np.arange(30)[:, None] == 13, np.nan, VECTORS)
    for batches, message in [
        ([VECTORS[:13], with_nan[13:]], "row 13"),
        ([], "no embeddings"),
        ([VECTORS[:29]], "29 embe"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_folder(tmp_path, batches, [("a", "b")] * 30)
        assert list(tmp_path.iterdir()) == []
