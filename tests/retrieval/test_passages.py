"""Passages in memory and in Arrow files."""

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
def test_passages_are_read_by_id_from_memory_and_from_a_file(tmp_path):
    for passages in (Passages(ROWS), Passages.write(tmp_path, iter(ROWS)), Passages.load(tmp_path)):
        assert len(passages) == len(ROWS) and list(passages) == ROWS
        for i in (0, BATCH_ROWS - 1, BATCH_ROWS, len(ROWS) - 1):
            assert passages[i] == ROWS[i]
        assert passages.take([5, -1, BATCH_ROWS + 7]) == [ROWS[5], ("", ""), ROWS[BATCH_ROWS + 7]]


def test_a_file_is_memory_mapped(tmp_path):
    before = pyarrow.total_allocated_bytes()
    passages = Passages.write(tmp_path, ((f"{i}", "x" * 1000) for i in range(2 * BATCH_ROWS)))
    assert passages[BATCH_ROWS][0] == f"{BATCH_ROWS}"
    assert (tmp_path / "passages.arrow").stat().st_size > 8e6
    assert pyarrow.total_allocated_bytes() - before < 1e5


@pytest.mark.parity("A17")
def test_saving_passages_keeps_other_files(tmp_path):
    (tmp_path / "dense_index.json").write_text("stays")
    Passages(ROWS[:3]).save(tmp_path)
    assert list(Passages.load(tmp_path)) == ROWS[:3]
    Passages.load(tmp_path).save(tmp_path)
    assert list(Passages.load(tmp_path)) == ROWS[:3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense_index.json", "passages.arrow"]


def test_empty_passages_are_saved(tmp_path):
    assert len(Passages.write(tmp_path, [])) == 0 and list(Passages.load(tmp_path)) == []


@pytest.mark.parametrize("i", [-1, 3, 10**12])
def test_ids_out_of_range_raise_and_minus_one_is_not_the_last(i):
    with pytest.raises(IndexError, match=f"passages 0 to 2, got {i}"):
        Passages(ROWS[:3])[i]


@pytest.mark.parametrize("row", [("a",), ("a", None), ("a", 3), "ab", {"title": "a", "text": "b"}, None], ids=repr)
def test_rows_that_are_not_pairs_of_strings_raise_and_write_nothing(row, tmp_path):
    with pytest.raises(ValueError, match="passage 4097 is "):
        Passages.write(tmp_path, [*ROWS[:4097], row])
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_raise(tmp_path):
    path = tmp_path / "passages.arrow"
    Passages.write(tmp_path, ROWS[:100])
    data = path.read_bytes()
    for damaged in (data[:-50], data[: len(data) // 2], b"", b"ARROW1\0\0" + b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(TensorFileError, match="passages.arrow: expected an Arrow file"):
            Passages.load(tmp_path)


def test_other_columns_raise(tmp_path):
    table = pyarrow.table({"title": ["a"], "contents": ["b"]})
    with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TensorFileError, match="title string, contents string"):
        Passages.load(tmp_path)


def test_a_folder_without_passages_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no passages in"):
        Passages.load(tmp_path)


def offsets(*values) -> bytes:
    """Returns string offsets as stored in a file."""
    return struct.pack(f"<{len(values)}i", *values)


def replace_bytes(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    time.sleep(0.01)  # file times have a limited resolution
    path.write_bytes(data.replace(old, new))


# The first titles and texts are 1 and 7 bytes long.
SHORT = [(f"{i}", f"text {i}\N{SNOWMAN}"[:7]) for i in range(9)]


@pytest.mark.parametrize("offset", [3, 9, -1, -(2**31), 1000, 2**30])
@pytest.mark.parity("A17")
def test_invalid_offsets_raise_and_are_not_followed(offset, tmp_path):
    Passages.write(tmp_path, SHORT)
    replace_bytes(tmp_path / "passages.arrow", offsets(0, 1, 2, 3), offsets(0, offset, 2, 3))
    with pytest.raises(TensorFileError, match=r"passages.arrow: expected .* in batch 0|batch 0 with the sha256"):
        list(Passages.load(tmp_path))


@pytest.mark.parametrize("change", ["strings", "valid offsets", "not UTF-8"])
def test_changed_bytes_raise(change, tmp_path):
    Passages.write(tmp_path, SHORT)
    old, new = {
        "strings": (b"text 3", b"text 4"),
        "valid offsets": (offsets(0, 1, 2, 3), offsets(0, 1, 1, 3)),
        "not UTF-8": (b"text 3", b"text \xff"),
    }[change]
    replace_bytes(tmp_path / "passages.arrow", old, new)
    passages = Passages.load(tmp_path)
    for _ in range(2):  # a failed check also fails the second time
        with pytest.raises(TensorFileError, match="batch 0"):
            passages[3]


def write_without_digests(folder, rows, missing=()):
    """Writes a file as version 0.1 did."""
    titles, texts = ([None if i in missing else row[at] for i, row in enumerate(rows)] for at in (0, 1))
    schema = pyarrow.schema([("title", pyarrow.string()), ("text", pyarrow.string())])
    table = pyarrow.table({"title": titles, "text": texts}, schema=schema)
    with pyarrow.ipc.new_file(str(folder / "passages.arrow"), schema) as writer:
        writer.write_table(table)


def test_a_file_without_digests_is_read_with_its_offsets_checked(tmp_path):
    write_without_digests(tmp_path, SHORT)
    passages = Passages.load(tmp_path)
    assert list(passages) == SHORT and passages.digest is None
    replace_bytes(tmp_path / "passages.arrow", offsets(0, 1, 2, 3), offsets(0, 2**30, 2, 3))
    with pytest.raises(TensorFileError, match="out of bounds"):
        Passages.load(tmp_path)[0]
    write_without_digests(tmp_path, SHORT, missing=[4])
    with pytest.raises(TensorFileError, match="1 null strings"):
        Passages.load(tmp_path)[0]


def test_missing_and_reordered_batches_raise(tmp_path):
    Passages.write(tmp_path, ROWS)
    reader = pyarrow.ipc.open_file(str(tmp_path / "passages.arrow"))
    batches = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
    for selected in (batches[:-1], batches[1:], batches[:1] + batches[2:], [*batches[:2][::-1], *batches[2:]]):
        with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), reader.schema) as writer:
            for batch, metadata in selected:
                writer.write_batch(batch, custom_metadata=metadata)
        with pytest.raises(TensorFileError, match="do not match the digest"):
            Passages.load(tmp_path)


@pytest.mark.parametrize("change", ["shorter", "other strings"])
def test_a_file_changed_after_opening_raises(change, tmp_path):
    passages, path = Passages.write(tmp_path, ROWS), tmp_path / "passages.arrow"
    assert passages[0] == ROWS[0]
    time.sleep(0.01)
    if change == "shorter":
        os.truncate(path, 1000)  # accessing a mapped page beyond the end would kill the process
    else:
        replace_bytes(path, b"Title 17\0" if b"Title 17\0" in path.read_bytes() else b"Title 17Title", b"Title 18Title")
    for i in (0, BATCH_ROWS):
        with pytest.raises(TensorFileError, match="modified since"):
            passages[i]


def test_a_file_replaced_after_opening_is_still_readable(tmp_path):
    passages = Passages.write(tmp_path, ROWS)
    Passages.write(tmp_path, [("another", "text")])
    assert list(passages) == ROWS and len(Passages.load(tmp_path)) == 1


def test_the_digest_depends_on_all_strings(tmp_path):
    written = Passages.write(tmp_path, ROWS)
    assert written.digest == Passages(ROWS).digest == Passages.load(tmp_path).digest
    Passages.load(tmp_path).save(tmp_path / "again")
    assert Passages.load(tmp_path / "again").digest == written.digest
    others = [ROWS[:-1], ROWS[::-1], [(title + "x", text) for title, text in ROWS], [(b, a) for a, b in ROWS], []]
    assert len({Passages(rows).digest for rows in [ROWS, *others]}) == 6
    # A character moved from the title to the text.
    assert Passages([("ab", "c")]).digest != Passages([("a", "bc")]).digest


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_batches_raise_before_allocating_memory(compression, tmp_path):
    batch = pyarrow.record_batch([["a"], ["x" * 50_000_000]], names=["title", "text"])
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_file(str(tmp_path / "passages.arrow"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    del batch
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(TensorFileError, match="compressed batches; write it without compression"):
        Passages.load(tmp_path)
    assert pyarrow.total_allocated_bytes() - before < 1e6
