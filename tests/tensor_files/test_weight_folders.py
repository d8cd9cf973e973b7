"""Selection of the file in a folder, and complete and incomplete sharded checkpoints."""

import json

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy
import torch
from support.tensor_file_samples import torch_bytes

from jaxmodels.tensor_files import TensorFileError, open_folder
from jaxmodels.tensor_files.checkpoint import WEIGHT_FILES

ARRAYS = {"a": np.arange(4.0), "b.kernel": np.arange(6.0).reshape(2, 3), "c": np.ones(2)}
SHARDS = {"a": 1, "b.kernel": 2, "c": 1}


def write_shard(path, arrays: dict[str, np.ndarray]):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    elif path.suffix == ".bin":
        path.write_bytes(torch_bytes({name: torch.from_numpy(values) for name, values in arrays.items()}))
    else:
        nested = {name: {"kernel": v} if name == "b" else v for (name, _, _), v in split(arrays)}
        path.write_bytes(flax.serialization.msgpack_serialize(nested))


def split(arrays):
    return [(name.partition("."), values) for name, values in arrays.items()]


def write_sharded(folder, stem: str, suffix: str):
    """Writes an index and two shards, as save_pretrained names them; returns the path of the index."""
    weight_map: dict[str, str] = {}
    for number in (1, 2):
        shard = f"{stem}-{number:05d}-of-00002{suffix}"
        names = [name for name, shard_number in SHARDS.items() if shard_number == number]
        write_shard(folder / shard, {name: ARRAYS[name] for name in names})
        weight_map |= {name.replace(".", "/") if suffix == ".msgpack" else name: shard for name in names}
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": weight_map}))
    return index


SHARDED = pytest.mark.parametrize(
    ("stem", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin"), ("flax_model", ".msgpack")]
)


@SHARDED
def test_shards_are_merged(tmp_path, stem, suffix):
    write_sharded(tmp_path, stem, suffix)
    entries = open_folder(tmp_path)
    expected = dict(ARRAYS)
    if suffix == ".msgpack":
        expected["b.weight"] = expected.pop("b.kernel").T
    assert entries.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(entries[name].read(), values)


def test_file_formats_in_order_of_preference(tmp_path):
    """In increasing preference: each file takes precedence over those written before it."""
    for number, name in enumerate(reversed(WEIGHT_FILES)):
        values = {"x": np.full(1, float(number))}
        if name.endswith(".index.json"):
            shard = name.removesuffix(".index.json").replace(".", "-1.", 1)
            write_shard(tmp_path / shard, values)
            (tmp_path / name).write_text(json.dumps({"weight_map": {"x": shard}}))
        else:
            write_shard(tmp_path / name, values)
        assert open_folder(tmp_path)["x"].read() == [number]


def test_folder_without_weights_is_reported(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tf_model.h5").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        open_folder(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert all(name in message for name in WEIGHT_FILES)
    assert "it contains config.json, tf_model.h5" in message


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: expected one of .*the folder does not exist"):
        open_folder(tmp_path / "nowhere")


@SHARDED
def test_missing_shard_is_reported(tmp_path, stem, suffix):
    write_sharded(tmp_path, stem, suffix)
    shard = tmp_path / f"{stem}-00002-of-00002{suffix}"
    shard.unlink()
    with pytest.raises(TensorFileError, match=f"index.json: expected 2 shards.*found no '{shard.name}' .*download"):
        open_folder(tmp_path)


@SHARDED
def test_truncated_shard_error_states_both_sizes(tmp_path, stem, suffix):
    write_sharded(tmp_path, stem, suffix)
    shard = tmp_path / f"{stem}-00002-of-00002{suffix}"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[: size - 20])
    with pytest.raises(TensorFileError, match=f"{size - 20}.*download it again") as caught:
        open_folder(tmp_path)
    assert caught.value.path == shard
    assert suffix == ".bin" or str(size) in str(caught.value)  # a zip file does not start with its size


@SHARDED
def test_tensor_missing_from_its_shard_is_reported(tmp_path, stem, suffix):
    index = write_sharded(tmp_path, stem, suffix)
    content = json.loads(index.read_text())
    content["weight_map"]["d/x"] = f"{stem}-00001-of-00002{suffix}"
    index.write_text(json.dumps(content))
    name = "d.x" if suffix == ".msgpack" else "d/x"
    with pytest.raises(TensorFileError, match=rf"3 tensors, as {index.name} says, found \d+ bytes without '{name}'"):
        open_folder(tmp_path)


BAD_INDEXES = {
    "not JSON": (b"{", "the index as JSON"),
    "no map": (b"{}", "weight_map"),
    "empty map": (b'{"weight_map": {}}', "weight_map"),
    "a list": (b"[]", "JSON object"),
    "shard that is a number": (b'{"weight_map": {"x": 1}}', "file names in the same folder as shards, found 1"),
    "shard elsewhere": (b'{"weight_map": {"x": "../model.safetensors"}}', "found '../model.safetensors'"),
    "absolute shard": (b'{"weight_map": {"x": "/etc/passwd"}}', "found '/etc/passwd'"),
    "the folder itself": (b'{"weight_map": {"x": ".."}}', "in the same folder"),
    "zero byte": (b'{"weight_map": {"x": "a\\u0000b"}}', "in the same folder"),
    "surrogate": (b'{"weight_map": {"x": "\\ud800"}}', "found no .*1 missing"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_invalid_indexes_are_rejected(tmp_path, name):
    data, message = BAD_INDEXES[name]
    folder = tmp_path / "model"
    folder.mkdir()
    write_shard(tmp_path / "model.safetensors", {"x": np.ones(1)})
    (folder / "model.safetensors.index.json").write_bytes(data)
    with pytest.raises(TensorFileError, match=message):
        open_folder(folder)
