"""Indexes in folders: any mesh reads what any other wrote, and what does not fit together is refused."""

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


def saved(folder, dtype="float32", rows=ROWS, **options):
    index = DenseIndex(rows, dtype=dtype, fingerprint="an encoder", **options)
    index.save(folder, shard_bytes=300 * 16 * index.dtype.itemsize)
    return index


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parity("A17")
def test_an_index_saved_from_eight_devices_loads_onto_any_mesh(dtype, tmp_path):
    index = saved(tmp_path, dtype, mesh=make_mesh({"data": 8}))
    names = [f"embeddings-{i:05}.safetensors" for i in range(1, 5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense_index.json", *names]
    expected = index.search(ROWS[:3], 9)
    for name in MESHES:
        mesh, axes = MESHES[name]()
        loaded = DenseIndex.load(tmp_path, mesh=mesh, axes=axes)
        assert (loaded.size, loaded.width, loaded.dtype, loaded.fingerprint) == (1000, 16, dtype, "an encoder")
        np.testing.assert_array_equal(loaded.values[:1000], index.values[:1000])
        for mine, theirs in zip(loaded.search(ROWS[:3], 9), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "int8"])
def test_rows_change_their_type_on_loading(stored, wanted, tmp_path):
    index = saved(tmp_path, stored)
    loaded = DenseIndex.load(tmp_path, dtype=wanted)
    expected = DenseIndex(index.vectors(np.arange(1000)), dtype=wanted)
    np.testing.assert_array_equal(loaded.values, expected.values)
    np.testing.assert_array_equal(loaded.vectors([1, 999]), expected.vectors([1, 999]))


def test_each_row_is_read_once_and_devices_get_their_own_only(tmp_path):
    saved(tmp_path)
    asked = []

    class Noting(index_files.IndexFiles):
        def read(self, places):
            asked.append(places)
            return super().read(places)

    DenseIndex.of_files(Noting(tmp_path), mesh=make_mesh({"data": 2, "model": 4}), axes="model")
    assert asked == [range(0, 256), range(256, 512), range(512, 768), range(768, 1000)]


def test_rows_come_shard_by_shard_and_not_from_a_memory_map(tmp_path):
    saved(tmp_path)
    pieces = list(index_files.IndexFiles(tmp_path).read(range(250, 650)))
    assert [(first, len(values)) for first, (values, _) in pieces] == [(250, 50), (300, 300), (600, 50)]
    np.testing.assert_array_equal(np.concatenate([values for _, (values, _) in pieces]), ROWS[250:650])
    # A page of a file that got shorter would end the process.
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path) not in maps.read_text()


@pytest.mark.parametrize("change", ["shorter", "other numbers"])
def test_a_shard_that_changes_after_it_was_opened_is_refused(change, tmp_path):
    saved(tmp_path)
    files, path = index_files.IndexFiles(tmp_path), tmp_path / "embeddings-00002.safetensors"
    list(files.read(range(1000)))
    data = path.read_bytes()
    path.write_bytes(data[:-4000] if change == "shorter" else data[:-4] + b"abcd")
    with pytest.raises(TensorFileError, match="embeddings-00002"):
        list(files.read(range(300, 600)))


def test_a_smaller_index_replaces_a_larger_one_and_other_files_stay(tmp_path):
    (tmp_path / "passages.arrow").write_text("stays")
    saved(tmp_path)
    saved(tmp_path, rows=ROWS[:40])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dense_index.json", "embeddings-00001.safetensors", "passages.arrow"]
    np.testing.assert_array_equal(DenseIndex.load(tmp_path).vectors(np.arange(40)), ROWS[:40])


def test_a_save_that_fails_leaves_the_old_index_and_nothing_else(tmp_path, monkeypatch):
    saved(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    written = []

    def full_disk(path, tensors):
        if len(written) == 2:
            raise OSError("no space left on device")
        written.append(path)
        write_tensors(path, tensors)

    monkeypatch.setattr(index_files, "write_tensors", full_disk)
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path, rows=ROWS + 1)
    assert len(written) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def edited(folder, **changes):
    path = folder / "dense_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edited_shard(folder, place, **changes):
    shards = json.loads((folder / "dense_index.json").read_text())["shards"]
    shards[place] |= changes
    edited(folder, shards=shards)


def cut(folder):
    path = folder / "embeddings-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_type(folder):
    """A shard of the same size whose numbers are something else."""
    path = folder / "embeddings-00002.safetensors"
    tensors = load_file(path)
    save_file({"embeddings": tensors["embeddings"].view(np.int32)}, path)
    edited_shard(folder, 1, bytes=path.stat().st_size)


def swapped(folder):
    """The last shard, of 100 rows, in the place of the second one."""
    data = (folder / "embeddings-00004.safetensors").read_bytes()
    (folder / "embeddings-00002.safetensors").write_bytes(data)
    edited_shard(folder, 1, bytes=len(data))


def flipped(folder):
    """One bit of one number of the third shard."""
    path = folder / "embeddings-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


# How an index is damaged -> words of the error.
DAMAGED = {
    "a shard cut short": (cut, r"embeddings-00002.*expected 19\d\d\d bytes, as dense_index.json says, found 19"),
    "a bit that flipped": (flipped, "embeddings-00003.*expected sha256 [0-9a-f]{64}, as dense_index.json says"),
    "a digest of numbers": (lambda f: edited_shard(f, 0, sha256=3), "text or null, found 3"),
    "a shard missing": (lambda f: (f / "embeddings-00003.safetensors").unlink(), "embeddings-00003.* no such file"),
    "a shard of another type": (other_type, r"'embeddings' float32 \(300, 16\), found 'embeddings' int32 \(300, 16\)"),
    "a shard of other rows": (swapped, r"float32 \(300, 16\), found 'embeddings' float32 \(100, 16\)"),
    "another width": (lambda f: edited(f, width=8), r"\(300, 8\), found .*\(300, 16\)"),
    "another dtype": (lambda f: edited(f, dtype="int8"), r"int8 \(300, 16\), 'scales' float32 \(300,\), found"),
    "unknown dtype": (lambda f: edited(f, dtype="float16"), "float32, bfloat16, int8, found 'float16'"),
    "more rows than the shards": (lambda f: edited(f, rows=1001), "1001 rows in all, found 1000"),
    "a gap between shards": (lambda f: edited_shard(f, 1, first=301), "begins with row 300, found .* with 301"),
    "negative rows": (lambda f: edited_shard(f, 1, rows=-3), "rows as an integer from 1 on, found -3"),
    "no shards": (lambda f: edited(f, shards=[]), "a list of shards"),
    "a shard elsewhere": (lambda f: edited_shard(f, 0, file="../x"), "beside the manifest, found '../x'"),
    "another format": (lambda f: edited(f, format="faiss"), "jaxmodels.DenseIndex, version 1, found 'faiss'"),
    "a later version": (lambda f: edited(f, version=2), "version 1, found 'jaxmodels.DenseIndex', 2"),
    "a fingerprint of numbers": (lambda f: edited(f, fingerprint=3), "text or null, found 3"),
    "no JSON": (lambda f: (f / "dense_index.json").write_text("{"), "the manifest as JSON"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_does_not_fit_together_is_refused(case, tmp_path):
    damage, words = DAMAGED[case]
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(TensorFileError, match=words):
        DenseIndex.load(tmp_path)


def test_an_index_without_digests_is_loaded_unchecked(tmp_path):
    saved(tmp_path)
    for place in range(4):
        edited_shard(tmp_path, place, sha256=None)
    flipped(tmp_path)
    assert (np.asarray(DenseIndex.load(tmp_path).vectors(np.arange(1000))) != ROWS).sum() == 1


def test_a_folder_without_an_index_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no index in .*dense_index\.json"):
            DenseIndex.load(folder)


def test_a_loaded_index_is_updated_in_place(tmp_path):
    saved(tmp_path)
    index = DenseIndex.load(tmp_path)
    before = index.values.unsafe_buffer_pointer()
    assert index.update_rows(3, np.ones((2, 16))).values.unsafe_buffer_pointer() == before
    assert jax.tree.all(
        jax.tree.map(np.array_equal, DenseIndex.load(tmp_path), DenseIndex(ROWS, fingerprint="an encoder"))
    )
