"""The safetensors reader compared with the `safetensors` library, on valid and on damaged files."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from support.tensor_file_samples import same, sample_files

from jaxmodels.tensor_files import TensorFileError, open_tensors

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
]


def file_of(header: object, data: bytes = bytes(8)) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_matches_safetensors(tmp_path, dtype):
    values = (torch.randint(0, 100, (3, 5), generator=torch.Generator().manual_seed(1)) / 7).to(dtype)
    tensors = {"matrix": values, "scalar": values[1, 1].clone(), "empty": values[:0].clone()}
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    entries = open_tensors(path)
    assert entries.keys() == tensors.keys()
    for name, loaded in safetensors.torch.load_file(path).items():
        assert same(entries[name].read(), loaded), name


def test_format_is_detected_without_suffix(tmp_path):
    path = tmp_path / "weights"
    safetensors.numpy.save_file({"x": np.arange(6).reshape(2, 3)}, path)
    assert open_tensors(path)["x"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_published_files_match_safetensors(data_dir):
    assert_matches_safetensors(data_dir / "checkpoints", ["bert_tiniest", "tiny_gpt2"])


@pytest.mark.full_data
def test_complete_published_files_match_safetensors(full_data_dir):
    assert_matches_safetensors(full_data_dir / "checkpoints", ["bert_tiniest", "fake_gpt2"])


def assert_matches_safetensors(folder, names):
    for path in (folder / name / "model.safetensors" for name in names):
        entries, expected = open_tensors(path), safetensors.torch.load_file(path)
        assert entries.keys() == expected.keys()
        assert all(same(entries[name].read(), values) for name, values in expected.items())


# Edge cases of the format that the library accepts.
ALLOWED = {
    "no tensor": file_of({}, b""),
    "only metadata": file_of({"__metadata__": {"format": "pt"}}, b""),
    "spaces after the header": file_of(json.dumps({"x": tensor()}).encode() + b"   "),
    "tensors in any order": file_of({"b": tensor(shape=(1,), offsets=(4, 8)), "a": tensor(shape=(1,), offsets=(0, 4))}),
    "empty tensor between": file_of({"b": tensor(), "a": tensor(shape=(0, 3), offsets=(8, 8))}),
}
# Name -> damaged file, and a part of the error message.
DAMAGED = {
    "empty file": (b"", "8 more bytes at byte 0, found 0"),
    "half a length": (b"\x10\0\0", "8 more bytes"),
    "length beyond the file": ((10**6).to_bytes(8, "little") + b"{}", "1000000 more bytes at byte 8, found 2"),
    "absurd length": (b"\xff" * 8 + b"{}", "header of at most"),
    "not JSON": (file_of(b"{'x'}"), "header as JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "header as JSON"),
    "deep JSON": (file_of(b'{"x":' + b"[" * 100_000), "header as JSON"),
    "long number": (file_of(b'{"x":' + b"9" * 10_000 + b"}"), "header as JSON"),
    "a list": (file_of([]), "JSON object"),
    "name twice": (file_of(b'{"x":' + b',"x":'.join([json.dumps(tensor()).encode()] * 2) + b"}"), "repeated key"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}, "x": tensor()}), "__metadata__"),
    "tensor without shape": (file_of({"x": {"dtype": "F32", "data_offsets": [0, 8]}}), "of tensor 'x'"),
    "unknown dtype": (file_of({"x": tensor("F33")}), "found 'F33'"),
    "sub-byte dtype": (file_of({"x": tensor("F4", (16,))}), "found 'F4'; save the weights again"),
    "dtype of another type": (file_of({"x": tensor(["F32"])}), "a dtype of"),
    "negative size": (file_of({"x": tensor(shape=(-2,))}), "non-negative"),
    "fractional size": (file_of({"x": tensor(shape=(2.0,))}), "non-negative integers, found 2.0"),
    "boolean size": (file_of({"x": tensor("F64", (True,))}), "non-negative integers, found True"),
    "shape of another size": (file_of({"x": tensor(shape=(3,))}), r"12 bytes for 'x'.*data_offsets \(0, 8\)"),
    "overflow": (file_of({"x": tensor(shape=(2**40, 2**40, 0), offsets=(0, 0))}, b""), "less than 2"),
    "rank": (file_of({"x": tensor(shape=(1,) * 65, offsets=(0, 4))}), "at most 64 dimensions"),
    "backward offsets": (file_of({"x": tensor(shape=(0,), offsets=(8, 0))}), "data_offsets"),
    "overlap": (file_of({"x": tensor(), "y": tensor()}), "the data of 'y' at byte"),
    "gap": (file_of({"x": tensor(offsets=(4, 12))}, bytes(12)), "the data of 'x' at byte"),
    "data cut short": (
        file_of({"x": tensor(shape=(200,), offsets=(0, 800))}, bytes(300)),
        r"file of \d+ bytes, .*found",
    ),
    "bytes at the end": (file_of({"x": tensor()}, bytes(9)), r"file of \d+ bytes"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_valid_edge_cases_are_accepted_as_by_safetensors(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(ALLOWED[name])
    with safetensors.safe_open(path, "numpy") as file:
        entries = open_tensors(path)
        assert entries.keys() == set(file.keys())
        assert all(np.array_equal(entries[key].read(), file.get_tensor(key)) for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_rejected_as_by_safetensors(tmp_path, name):
    data, message = DAMAGED[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=message) as caught:
        open_tensors(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    if name not in ("name twice", "sub-byte dtype"):  # the library takes the last value, and supports the dtype
        with pytest.raises((safetensors.SafetensorError, ValueError)), safetensors.safe_open(path, "numpy") as file:
            [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118


def test_truncated_file_error_states_both_sizes(tmp_path):
    data = sample_files()["model.safetensors"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data[:-10])
    with pytest.raises(TensorFileError, match=f"{len(data)} bytes.*found {len(data) - 10} bytes.*download it again"):
        open_tensors(path)
