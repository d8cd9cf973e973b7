"""Titles and texts in an Arrow file."""

import os
import struct
import time

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


def numbers(*values) -> bytes:
    """As offsets of texts lie in a file."""
    return struct.pack(f"<{len(values)}i", *values)


def replaced(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    time.sleep(0.01)  # a file's time has steps
    path.write_bytes(data.replace(old, new))


# The first titles and texts are 1 and 7 bytes long.
SHORT = [(f"{i}", f"text {i}\N{SNOWMAN}"[:7]) for i in range(9)]


@pytest.mark.parametrize("far", [3, 9, -1, -(2**31), 1000, 2**30])
@pytest.mark.parity("A17")
def test_an_offset_that_lies_elsewhere_is_refused_and_not_followed(far, tmp_path):
    Passages.write(tmp_path, SHORT)
    replaced(tmp_path / "passages.arrow", numbers(0, 1, 2, 3), numbers(0, far, 2, 3))
    with pytest.raises(TensorFileError, match=r"passages.arrow: expected .* in batch 0|batch 0 with the sha256"):
        list(Passages.load(tmp_path))


@pytest.mark.parametrize("kind", ["texts", "offsets that fit", "not UTF-8"])
def test_other_bytes_than_were_written_are_refused(kind, tmp_path):
    Passages.write(tmp_path, SHORT)
    old, new = {
        "texts": (b"text 3", b"text 4"),
        "offsets that fit": (numbers(0, 1, 2, 3), numbers(0, 1, 1, 3)),
        "not UTF-8": (b"text 3", b"text \xff"),
    }[kind]
    replaced(tmp_path / "passages.arrow", old, new)
    passages = Passages.load(tmp_path)
    for _ in range(2):  # one that was refused is not taken the second time
        with pytest.raises(TensorFileError, match="batch 0"):
            passages[3]


def without_digests(folder, rows, missing=()):
    """As version 0.1 wrote it."""
    titles, texts = ([None if i in missing else row[at] for i, row in enumerate(rows)] for at in (0, 1))
    schema = pyarrow.schema([("title", pyarrow.string()), ("text", pyarrow.string())])
    table = pyarrow.table({"title": titles, "text": texts}, schema=schema)
    with pyarrow.ipc.new_file(str(folder / "passages.arrow"), schema) as writer:
        writer.write_table(table)


def test_a_file_without_digests_is_read_and_its_offsets_are_checked(tmp_path):
    without_digests(tmp_path, SHORT)
    passages = Passages.load(tmp_path)
    assert list(passages) == SHORT and passages.digest is None
    replaced(tmp_path / "passages.arrow", numbers(0, 1, 2, 3), numbers(0, 2**30, 2, 3))
    with pytest.raises(TensorFileError, match="out of bounds"):
        Passages.load(tmp_path)[0]
    without_digests(tmp_path, SHORT, missing=[4])
    with pytest.raises(TensorFileError, match="1 texts are missing"):
        Passages.load(tmp_path)[0]


def test_digests_of_batches_that_are_missing_are_refused(tmp_path):
    Passages.write(tmp_path, ROWS)
    reader = pyarrow.ipc.open_file(str(tmp_path / "passages.arrow"))
    batches = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
    for kept in (batches[:-1], batches[1:], batches[:1] + batches[2:], [*batches[:2][::-1], *batches[2:]]):
        with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), reader.schema) as writer:
            for batch, metadata in kept:
                writer.write_batch(batch, custom_metadata=metadata)
        with pytest.raises(TensorFileError, match="not those that were written"):
            Passages.load(tmp_path)


@pytest.mark.parametrize("change", ["shorter", "other texts"])
def test_a_file_that_changes_after_it_was_opened_is_refused(change, tmp_path):
    passages, path = Passages.write(tmp_path, ROWS), tmp_path / "passages.arrow"
    assert passages[0] == ROWS[0]
    time.sleep(0.01)
    if change == "shorter":
        os.truncate(path, 1000)  # to read a page beyond it would end the process
    else:
        replaced(path, b"Title 17\0" if b"Title 17\0" in path.read_bytes() else b"Title 17Title", b"Title 18Title")
    for i in (0, BATCH_ROWS):
        with pytest.raises(TensorFileError, match="written into since"):
            passages[i]


def test_a_file_that_is_replaced_after_it_was_opened_stays_what_it_was(tmp_path):
    passages = Passages.write(tmp_path, ROWS)
    Passages.write(tmp_path, [("another", "text")])
    assert list(passages) == ROWS and len(Passages.load(tmp_path)) == 1


def test_the_digest_is_that_of_the_texts(tmp_path):
    written = Passages.write(tmp_path, ROWS)
    assert written.digest == Passages(ROWS).digest == Passages.load(tmp_path).digest
    Passages.load(tmp_path).save(tmp_path / "again")
    assert Passages.load(tmp_path / "again").digest == written.digest
    others = [ROWS[:-1], ROWS[::-1], [(title + "x", text) for title, text in ROWS], [(b, a) for a, b in ROWS], []]
    assert len({Passages(rows).digest for rows in [ROWS, *others]}) == 6
    # A character goes from the title to the text.
    assert Passages([("ab", "c")]).digest != Passages([("a", "bc")]).digest


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_batches_are_refused_before_they_take_memory(compression, tmp_path):
    batch = pyarrow.record_batch([["a"], ["x" * 50_000_000]], names=["title", "text"])
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    del batch
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(TensorFileError, match="compressed batches; write it without compression"):
        Passages.load(tmp_path)
    assert pyarrow.total_allocated_bytes() - before < 1e6
