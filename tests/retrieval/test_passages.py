"""Titles and texts in an Arrow file."""

import pyarrow
import pytest

from jaxmodels.retrieval import Passages
from jaxmodels.retrieval.passages import BATCH_ROWS
from jaxmodels.tensor_files import TensorFileError

ROWS = [(f"Title {i}", f"Text\t{i} é \U0001f600\n") for i in range(2 * BATCH_ROWS + 3)]


@pytest.mark.parity("A17")
def test_passages_come_back_by_number_from_memory_and_from_a_file(tmp_path):
    for passages in (Passages(ROWS), Passages.write(tmp_path, iter(ROWS)), Passages.load(tmp_path)):
        assert len(passages) == len(ROWS) and list(passages) == ROWS
        for i in (0, BATCH_ROWS - 1, BATCH_ROWS, len(ROWS) - 1):
            assert passages[i] == ROWS[i]
        assert passages.take([5, -1, BATCH_ROWS + 7]) == [ROWS[5], ("", ""), ROWS[BATCH_ROWS + 7]]


def test_a_file_is_mapped_and_not_read(tmp_path):
    before = pyarrow.total_allocated_bytes()
    passages = Passages.write(tmp_path, ((f"{i}", "x" * 1000) for i in range(2 * BATCH_ROWS)))
    assert passages[BATCH_ROWS][0] == f"{BATCH_ROWS}"
    assert (tmp_path / "passages.arrow").stat().st_size > 8e6
    assert pyarrow.total_allocated_bytes() - before < 1e5


@pytest.mark.parity("A17")
def test_passages_are_saved_beside_what_is_there(tmp_path):
    (tmp_path / "dense_index.json").write_text("stays")
    Passages(ROWS[:3]).save(tmp_path)
    assert list(Passages.load(tmp_path)) == ROWS[:3]
    Passages.load(tmp_path).save(tmp_path)
    assert list(Passages.load(tmp_path)) == ROWS[:3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense_index.json", "passages.arrow"]


def test_no_passages_are_a_file_too(tmp_path):
    assert len(Passages.write(tmp_path, [])) == 0 and list(Passages.load(tmp_path)) == []


@pytest.mark.parametrize("i", [-1, 3, 10**12])
def test_numbers_outside_are_refused_and_minus_one_is_not_the_last(i):
    with pytest.raises(IndexError, match=f"passages 0 to 2, got {i}"):
        Passages(ROWS[:3])[i]


@pytest.mark.parametrize("row", [("a",), ("a", None), ("a", 3), "ab", {"title": "a", "text": "b"}, None], ids=repr)
def test_rows_that_are_no_pair_of_texts_are_refused_and_leave_nothing(row, tmp_path):
    with pytest.raises(ValueError, match="passage 4097 is "):
        Passages.write(tmp_path, [*ROWS[:4097], row])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "passages.arrow"
    Passages.write(tmp_path, ROWS[:100])
    data = path.read_bytes()
    for damaged in (data[:-50], data[: len(data) // 2], b"", b"ARROW1\0\0" + b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(TensorFileError, match="passages.arrow: expected an Arrow file"):
            Passages.load(tmp_path)


def test_other_columns_are_refused(tmp_path):
    table = pyarrow.table({"title": ["a"], "contents": ["b"]})
    with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TensorFileError, match="title string, contents string"):
        Passages.load(tmp_path)


def test_a_folder_without_passages_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no passages in"):
        Passages.load(tmp_path)
