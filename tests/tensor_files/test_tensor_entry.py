"""Reading a tensor: into an existing array, by several threads, with bounded memory."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support.tensor_file_samples import sample_files

from jaxmodels.tensor_files import TensorEntry, TensorFileError, open_tensors
from jaxmodels.tensor_files.entry import BAND_BYTES, read_view
from jaxmodels.tensor_files.file_io import open_file, read_exactly


@pytest.fixture
def values(tmp_path):
    array = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    (tmp_path / "values").write_bytes(array.tobytes())
    return array


@pytest.fixture
def stored(values, tmp_path):
    return TensorEntry("values", (64, 32), np.dtype(np.float32), tmp_path / "values", ((0, values.nbytes),))


def test_read_into_an_existing_array(stored, values):
    stack = np.zeros((3, 64, 32), np.float32)
    assert stored.read(out=stack[1]) is not None
    np.testing.assert_array_equal(stack, [np.zeros_like(values), values, np.zeros_like(values)])
    stored.transposed().read(out=stack[2].reshape(32, 64))
    np.testing.assert_array_equal(stack[2].reshape(32, 64), values.T)


VIEWS = {  # shape and strides over 2048 elements
    "transposed": ((32, 64), (1, 32)),
    "permuted": ((4, 8, 2, 32), (64, 256, 32, 1)),
    "outer axis inside": ((64, 2, 16), (16, 1024, 1)),
    "column": ((64,), (32,)),
    "sparse": ((4, 5, 3), (512, 7, 70)),
    "windows": ((30, 40), (1, 1)),
    "crossed": ((20, 20), (50, 50)),
    "repeated": ((2, 100), (0, 3)),
}


@pytest.mark.parametrize("band_bytes", [8, 200, 1000, 2**20])
@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_in_bands_and_each_byte_once(stored, values, view, band_bytes):
    shape, strides = VIEWS[view]
    requested, got = [], np.empty(shape, stored.dtype)

    def noting(start, target):
        requested.append(len(target))
        stored.fill(start, target)

    read_view(noting, 0, strides, got, band_bytes)
    expected = np.lib.stride_tricks.as_strided(values, shape, [4 * stride for stride in strides])
    np.testing.assert_array_equal(got, expected)
    tensor = TensorEntry("view", shape, stored.dtype, stored.path, stored.spans, strides)
    np.testing.assert_array_equal(tensor.read(), expected)
    assert sum(requested) <= values.nbytes
    if view not in ("windows", "crossed", "repeated"):  # overlapping slices are one band
        assert max(requested) <= band_bytes


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 4096, 8191])
def test_parallel_reads_fill_the_target(stored, values, chunk_bytes):
    got = bytearray(values.nbytes)
    read_exactly(open_file(stored.path), "values", 0, memoryview(got), chunk_bytes)
    assert got == values.tobytes()
    stored.path.write_bytes(values.tobytes()[:-1])
    with pytest.raises(TensorFileError, match="for tensor 'values', found .*in a file that now has 8191 bytes"):
        read_exactly(open_file(stored.path), "values", 0, memoryview(got), chunk_bytes)


@pytest.mark.parametrize("lengths", [(8192,), (1, 8191), (100, 0, 3001, 5091), (4096, 4096)])
def test_spans_are_joined_across_elements(stored, values, tmp_path, lengths):
    data, spans, scattered = values.tobytes(), [], b"??"
    for length in lengths:
        spans.append((len(scattered), length))
        scattered, data = scattered + data[:length] + b"!!!", data[length:]
    (tmp_path / "values").write_bytes(scattered)
    in_pieces = TensorEntry("values", (64, 32), stored.dtype, stored.path, tuple(spans))
    np.testing.assert_array_equal(in_pieces.read(), values)
    turned, got = in_pieces.transposed(), np.empty((32, 64), np.float32)
    np.testing.assert_array_equal(turned.read(), values.T)
    read_view(turned.fill, 0, turned.strides, got, band_bytes=300)  # so that bands begin in every span
    np.testing.assert_array_equal(got, values.T)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((32, 64), np.float32),
        np.zeros((64, 32), np.float64),
        np.zeros((64, 32), ">f4"),
        np.zeros((32, 64), np.float32).T,
        np.frombuffer(bytes(64 * 32 * 4), np.float32).reshape(64, 32),
    ],
    ids=["shape", "dtype", "byte order", "layout", "read-only"],
)
def test_unsuitable_output_arrays_are_rejected(stored, out):
    with pytest.raises(
        ValueError, match=r"values: `out` must be a writable C-contiguous float32 array of shape \(64, 32\)"
    ):
        stored.read(out=out)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (0, 5), (5, 0), (1, 1)])
def test_transposed_vectors_and_empty_matrices(tmp_path, shape):
    array = np.arange(float(np.prod(shape))).reshape(shape)
    (tmp_path / "x").write_bytes(array.tobytes())
    transposed = TensorEntry("x", shape, array.dtype, tmp_path / "x", ((0, array.nbytes),)).transposed()
    assert transposed.strides is None
    np.testing.assert_array_equal(transposed.read(), array.T)
    np.testing.assert_array_equal(transposed.transposed().read(), array)


def test_concurrent_reads_of_one_entry(tmp_path):
    arrays = {str(i): np.full((50, 40), i, ml_dtypes.bfloat16 if i % 2 else np.float32) for i in range(20)}
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({name: array.view(np.uint8) for name, array in arrays.items()}, path)
    entries = open_tensors(path)
    with ThreadPoolExecutor(8) as pool:
        reads = [(name, pool.submit(entries[name].read)) for _ in range(10) for name in arrays]
        assert all(read.result().tobytes() == arrays[name].tobytes() for name, read in reads)


def test_entries_and_errors_can_be_pickled(stored):
    assert pickle.loads(pickle.dumps(stored)) == stored
    error = TensorFileError("x.bin", "this", "that")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.remedy) == (str(error), error.remedy)
    assert str(error).startswith("x.bin: expected this, found that; ")


@pytest.mark.parametrize("long", range(4))
def test_messages_are_truncated_and_attributes_are_not(long):
    parts = ["/folder/x.bin", "this", "that", "do this"]
    parts[long] = f"{'a' * 100_000}.end" if long == 0 else "b" * 100_000
    error = TensorFileError(*parts)
    assert len(str(error)) <= 500 and [error.path, error.expected, error.found, error.remedy] == parts
    assert all(part in str(error) for i, part in enumerate(parts) if i != long)
    assert str(error).partition(":")[0].endswith(".end" if long == 0 else "x.bin")


def test_file_truncated_after_opening_is_rejected(stored, tmp_path):
    (tmp_path / "values").write_bytes(bytes(100))
    for tensor in (stored, stored.transposed()):
        with pytest.raises(
            TensorFileError,
            match="8192 bytes at byte 0 for tensor 'values', found 100, in a file that now has 100 bytes",
        ):
            tensor.read()


def test_reading_uses_no_memory_map_and_no_copy(tmp_path):
    """Peak memory is that of the caller's arrays, plus one band for a transposed matrix."""
    array = np.ones((3000, 2000), np.float32)
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"one": array, "two": array}, path)
    out = np.empty_like(array)
    tracemalloc.start()
    try:
        entries = open_tensors(path)
        for tensor in entries.values():
            tensor.read(out=out)
        straight = tracemalloc.get_traced_memory()[1]
        entries["one"].transposed().read(out=out.reshape(2000, 3000))
        banded = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert straight < 1e6
    assert banded < BAND_BYTES + 1e6 < array.nbytes
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path) not in maps.read_text()


def test_opening_reads_no_tensor_data(tmp_path):
    """Opening a sparse file of many GB reads and allocates little."""
    for name, data in sample_files().items():
        path = tmp_path / name
        path.write_bytes(data)
        entries = open_tensors(path)
        lowest = min(offset for tensor in entries.values() for offset, _ in tensor.spans)
        spoiled = bytearray(data)
        for tensor in entries.values():
            for offset, count in tensor.spans:
                spoiled[offset : offset + count] = b"\xff" * count
        path.write_bytes(spoiled)
        assert lowest > 0
        assert open_tensors(path) == entries, name
