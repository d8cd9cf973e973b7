"""Saved indexes: any mesh loads what any other saved, and inconsistent files raise."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.index_samples import MESHES, normal

from jaxmodels.retrieval import DenseIndex, index_files
from jaxmodels.sharding import make_mesh
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tensor_files.safetensors_file import write_tensors

ROWS = normal(1000, 16)


def save_index(folder, dtype="float32", rows=ROWS, **options):
    index = DenseIndex(rows, dtype=dtype, fingerprint="an encoder", **options)
    index.save(folder, shard_bytes=300 * 16 * index.dtype.itemsize)
    return index


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parity("A17")
def test_an_index_saved_from_eight_devices_loads_onto_any_mesh(dtype, tmp_path):
    index = save_index(tmp_path, dtype, mesh=make_mesh({"data": 8}))
    names = [f"embeddings-{i:05}.safetensors" for i in range(1, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense_index.json", *names]
    expected = index.search(ROWS[:3], 9)
    for name in MESHES:
        mesh, axes = MESHES[name]()
        loaded = DenseIndex.load(tmp_path, mesh=mesh, axes=axes)
        assert (loaded.size, loaded.width, loaded.dtype, loaded.fingerprint) == (1000, 16, dtype, "an encoder")
        np.testing.assert_array_equal(loaded.values[:1000], index.values[:1000])
        for actual, reference in zip(loaded.search(ROWS[:3], 9), expected, strict=True):
            np.testing.assert_array_equal(actual, reference)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("requested", ["float32", "bfloat16", "int8"])
def test_rows_are_converted_to_the_requested_dtype(stored, requested, tmp_path):
    index = save_index(tmp_path, stored)
    loaded = DenseIndex.load(tmp_path, dtype=requested)
    expected = DenseIndex(index.vectors(np.arange(1000)), dtype=requested)
    np.testing.assert_array_equal(loaded.values, expected.values)
    np.testing.assert_array_equal(loaded.vectors([1, 999]), expected.vectors([1, 999]))


def test_each_row_is_read_once_for_its_device(tmp_path):
    save_index(tmp_path)
    requested = []

    class RecordingFiles(index_files.IndexFiles):
        def read(self, rows):
            requested.append(rows)
            return super().read(rows)

    DenseIndex.from_files(RecordingFiles(tmp_path), mesh=make_mesh({"data": 2, "model": 4}), axes="model")
    assert requested == [range(0, 256), range(256, 512), range(512, 768), range(768, 1000)]


def test_rows_are_read_shard_by_shard_without_a_memory_map(tmp_path):
    save_index(tmp_path)
    parts = list(index_files.IndexFiles(tmp_path).read(range(250, 650)))
    assert [(first, len(values)) for first, (values, _) in parts] == [(250, 50), (300, 300), (600, 50)]
    np.testing.assert_array_equal(np.concatenate([values for _, (values, _) in parts]), ROWS[250:650])
    # Accessing a mapped page of a truncated file would kill the process.
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path) not in maps.read_text()


@pytest.mark.parametrize("change", ["shorter", "other numbers"])
def test_a_shard_changed_after_opening_raises(change, tmp_path):
    save_index(tmp_path)
    files, path = index_files.IndexFiles(tmp_path), tmp_path / "embeddings-00002.safetensors"
    list(files.read(range(1000)))
    data = path.read_bytes()
    path.write_bytes(data[:-4000] if change == "shorter" else data[:-4] + b"abcd")
    with pytest.raises(TensorFileError, match="embeddings-00002"):
        list(files.read(range(300, 600)))


def test_a_smaller_index_replaces_a_larger_one_and_keeps_other_files(tmp_path):
    (tmp_path / "passages.arrow").write_text("stays")
    save_index(tmp_path)
    save_index(tmp_path, rows=ROWS[:40])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dense_index.json", "embeddings-00001.safetensors", "passages.arrow"]
    np.testing.assert_array_equal(DenseIndex.load(tmp_path).vectors(np.arange(40)), ROWS[:40])


def test_a_failed_save_leaves_the_previous_index_and_nothing_else(tmp_path, monkeypatch):
    save_index(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = []

    def full_disk(path, tensors):
        if len(written) == 2:
            raise OSError("no space left on device")
        written.append(path)
        write_tensors(path, tensors)

    monkeypatch.setattr(index_files, "write_tensors", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_index(tmp_path, rows=ROWS + 1)
    assert len(written) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def edit_manifest(folder, **changes):
    path = folder / "dense_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_shard(folder, number, **changes):
    shards = json.loads((folder / "dense_index.json").read_text())["shards"]
    shards[number] |= changes
    edit_manifest(folder, shards=shards)


def truncate(folder):
    path = folder / "embeddings-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_dtype(folder):
    """Replaces a shard with one of the same size and another dtype."""
    path = folder / "embeddings-00002.safetensors"
    tensors = load_file(path)
    save_file({"embeddings": tensors["embeddings"].view(np.int32)}, path)
    edit_shard(folder, 1, bytes=path.stat().st_size)


def swap_shards(folder):
    """Replaces the second shard with the last one, of 100 rows."""
    data = (folder / "embeddings-00004.safetensors").read_bytes()
    (folder / "embeddings-00002.safetensors").write_bytes(data)
    edit_shard(folder, 1, bytes=len(data))


def flip_bit(folder):
    """Flips one bit of one number of the third shard."""
    path = folder / "embeddings-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


# Damage -> pattern of the error message.
DAMAGED = {
    "a truncated shard": (truncate, r"embeddings-00002.*expected 19\d\d\d bytes, as in dense_index.json, found 19"),
    "a bit that flipped": (flip_bit, "embeddings-00003.*expected sha256 [0-9a-f]{64}, as in dense_index.json"),
    "a digest that is a number": (lambda f: edit_shard(f, 0, sha256=3), "string or null, found 3"),
    "a shard missing": (lambda f: (f / "embeddings-00003.safetensors").unlink(), "embeddings-00003.* no such file"),
    "a shard of another type": (
        change_dtype,
        r"'embeddings' float32 \(300, 16\), found 'embeddings' int32 \(300, 16\)",
    ),
    "a shard of other rows": (swap_shards, r"float32 \(300, 16\), found 'embeddings' float32 \(100, 16\)"),
    "another width": (lambda f: edit_manifest(f, width=8), r"\(300, 8\), found .*\(300, 16\)"),
    "another dtype": (lambda f: edit_manifest(f, dtype="int8"), r"int8 \(300, 16\), 'scales' float32 \(300,\), found"),
    "unknown dtype": (lambda f: edit_manifest(f, dtype="float16"), "float32, bfloat16, int8, found 'float16'"),
    "more rows than the shards": (lambda f: edit_manifest(f, rows=1001), "1001 rows in total, found 1000"),
    "a gap between shards": (lambda f: edit_shard(f, 1, first=301), "starts at row 300, found .* with 301"),
    "negative rows": (lambda f: edit_shard(f, 1, rows=-3), "rows to be an integer of at least 1, found -3"),
    "no shards": (lambda f: edit_manifest(f, shards=[]), "a list of shards"),
    "a shard elsewhere": (lambda f: edit_shard(f, 0, file="../x"), "in the manifest's folder, found '../x'"),
    "another format": (lambda f: edit_manifest(f, format="faiss"), "jaxmodels.DenseIndex, version 1, found 'faiss'"),
    "a later version": (lambda f: edit_manifest(f, version=2), "version 1, found 'jaxmodels.DenseIndex', 2"),
    "a fingerprint that is a number": (lambda f: edit_manifest(f, fingerprint=3), "string or null, found 3"),
    "no JSON": (lambda f: (f / "dense_index.json").write_text("{"), "the manifest as JSON"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_indexes_raise(case, tmp_path):
    damage, message = DAMAGED[case]
    save_index(tmp_path)
    damage(tmp_path)
    with pytest.raises(TensorFileError, match=message):
        DenseIndex.load(tmp_path)


def test_an_index_without_digests_is_not_checked(tmp_path):
    save_index(tmp_path)
    for number in range(4):
        edit_shard(tmp_path, number, sha256=None)
    flip_bit(tmp_path)
    assert (np.asarray(DenseIndex.load(tmp_path).vectors(np.arange(1000))) != ROWS).sum() == 1


def test_a_folder_without_an_index_raises(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no index in .*dense_index\.json"):
            DenseIndex.load(folder)


def test_a_loaded_index_is_updated_in_place(tmp_path):
    save_index(tmp_path)
    index = DenseIndex.load(tmp_path)
    before = index.values.unsafe_buffer_pointer()
    assert index.update_rows(3, np.ones((2, 16))).values.unsafe_buffer_pointer() == before
    assert jax.tree.all(
        jax.tree.map(np.array_equal, DenseIndex.load(tmp_path), DenseIndex(ROWS, fingerprint="an encoder"))
    )
