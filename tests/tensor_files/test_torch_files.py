"""Files of torch.save, compared with the tensors that torch saved or loads."""

import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from support.tensor_file_samples import (
    TORCH_HEAD,
    number,
    numbers,
    pickled_tensor,
    same,
    state_dict,
    stored_bytes,
    tensor_pickle,
    text,
    torch_bytes,
    zip_of,
)

from jaxmodels.tensor_files import TensorFileError, open_folder, open_tensors

LAYOUTS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
]


def written(path, data: bytes):
    path.write_bytes(data)
    return path


def assert_loads(path, tensors: dict[str, torch.Tensor]):
    entries = open_tensors(path)
    assert list(entries) == list(tensors)
    for name, tensor in tensors.items():
        assert entries[name].name == name
        assert same(entries[name].read(), tensor), name


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path, dtype, legacy):
    values = (torch.randint(0, 100, (3, 5), generator=torch.Generator().manual_seed(1)) / 7).to(dtype)
    tensors = {"matrix": values, "view": values.t()[1:], "scalar": values[1, 1], "empty": values[:0]}
    assert_loads(written(tmp_path / "x.pt", torch_bytes(tensors, legacy)), tensors)


@LAYOUTS
def test_views_of_a_shared_storage(tmp_path, legacy):
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = {
        "base": base,
        "transposed": base.permute(3, 1, 0, 2),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "strided": base[:, ::2, 1:, ::3],
        "column": base[..., 2],
        "windows": base.flatten()[:6].unfold(0, 3, 2),
        "row": base[1, 2, 3],
        "one": base[1:, 2:, 3:, 4:],
        "diagonal": base[0, 0, :, :4].diagonal(),
    }
    path = written(tmp_path / "x.pt", torch_bytes(tensors, legacy))
    assert_loads(path, tensors)
    assert path.stat().st_size < 3 * 120 * 4 + 6000  # otherwise the file has no shared storage


@LAYOUTS
def test_nested_containers_become_dotted_names(tmp_path, legacy):
    one, two, three = torch.ones(2), torch.zeros(3), torch.full((1,), 3.0)
    root = {
        "model_state_dict": OrderedDict(fc=OrderedDict(weight=one), bias=torch.nn.Parameter(two)),
        "optimizer": {"state": {0: {"momentum": three, "step": 4}}, "groups": [{"lr": 0.1, "params": [0]}]},
        "list": [None, (True, one)],
        "plain": ["text", 2**40, -3, 70000, 1.5, torch.Size([1, 2]), torch.float16, {}, (), (1, 2, 3, 4)],
    }
    expected = {
        "model_state_dict.fc.weight": one,
        "model_state_dict.bias": two,
        "optimizer.state.0.momentum": three,
        "list.1.1": one,
    }
    assert_loads(written(tmp_path / "x.pth", torch_bytes(root, legacy)), expected)


@LAYOUTS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dict_of_a_module_in_every_pickle_protocol(tmp_path, legacy, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3))
    tied = module.state_dict() | {"tied": module[0].weight}
    assert_loads(written(tmp_path / "x.bin", torch_bytes(tied, legacy, pickle_protocol=protocol)), tied)


def test_single_tensor_has_the_empty_name(tmp_path):
    assert_loads(written(tmp_path / "x.pt", torch_bytes(torch.arange(3))), {"": torch.arange(3)})


def test_zip_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        data = torch_bytes(state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    assert_loads(written(tmp_path / "x.pt", data), state_dict())


def test_published_files_match_torch_load(data_dir):
    folder = data_dir / "checkpoints" / "torch_formats"
    paths = sorted(set(folder.glob("*.pt")) - {folder / "broken.pt"})
    assert len(paths) == 27
    for path in paths:
        assert_matches_torch_load(path)


@pytest.mark.full_data
def test_trained_model_matches_torch_load(full_data_dir):
    assert_matches_torch_load(full_data_dir / "checkpoints" / "torch_formats" / "mnist.pt")


def assert_matches_torch_load(path):
    assert_loads(path, dict(leaves(torch.load(path, map_location="cpu", weights_only=True))))


def leaves(node, prefix=""):
    for key, child in node.items():
        if isinstance(child, torch.Tensor):
            yield prefix + key, child
        elif isinstance(child, dict):
            yield from leaves(child, f"{prefix}{key}.")


def test_damaged_published_file_is_rejected(data_dir):
    path = data_dir / "checkpoints" / "torch_formats" / "broken.pt"
    with pytest.raises(TensorFileError, match=r"broken\.pt: expected a file of torch\.save.*found .*b'abc'"):
        open_tensors(path)


def opens(folder, count):
    entries = open_folder(folder)
    assert len(entries) == count
    assert all(entry.read().shape == entry.shape for entry in entries.values())


@pytest.mark.parametrize(("name", "count"), [("bert-xsmall-dummy", 23), ("bert_tiniest", 26), ("tiny_gpt2", 16)])
def test_published_folders_open(data_dir, name, count):
    opens(data_dir / "checkpoints" / name, count)


@pytest.mark.full_data
def test_complete_published_folders_open(full_data_dir):
    for name, count in {"bert_tiniest": 26, "fake_gpt2": 16}.items():
        opens(full_data_dir / "checkpoints" / name, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.int8], ids=str)
def test_big_endian_zip(tmp_path, dtype):
    tensor = torch.tensor([[1, 2, 3], [4, 5, 250]]).to(dtype).t()
    storage = {torch.float32: "FloatStorage", torch.bfloat16: "BFloat16Storage", torch.complex64: "ComplexFloatStorage"}
    kind = storage.get(dtype) or {torch.int64: "LongStorage", torch.int8: "CharStorage"}[dtype]
    unit = dtype.itemsize // (2 if dtype.is_complex else 1)
    little = stored_bytes(tensor.t())
    big = b"".join(little[i : i + unit][::-1] for i in range(0, len(little), unit))
    pickled = pickled_tensor(6, 0, (3, 2), (1, 3), kind=kind)
    path = written(tmp_path / "x.pt", zip_of(pickled, {"byteorder": b"big", "data/0": big}))
    assert_loads(path, {"x": tensor})


def test_storage_views_in_legacy_files(tmp_path):
    """Before torch 1.0 a storage could itself be a view: (key, offset, length) in its persistent id."""
    view = b"(" + text("1") + number(2) + number(5) + b"t"
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(8) + view + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + pid + number(1) + numbers([4]) + numbers([1]) + b"tR"
    root = b"\x80\x02}" + text("x") + tensor + b"s."
    data = torch.arange(8.0)
    tail = b"\x80\x02]" + text("0") + b"a." + (8).to_bytes(8, "little") + stored_bytes(data)
    assert_loads(written(tmp_path / "x.pt", TORCH_HEAD + root + tail), {"x": data[3:7]})


def test_python_2_pickles(tmp_path):
    """Byte strings as keys, and an OrderedDict rebuilt from a list of pairs."""
    tensor = tensor_pickle(2, 0, (2,), (1,))
    pickled = b"\x80\x02ccollections\nOrderedDict\n]](U\x01x" + tensor + b"ea\x85R."
    path = written(tmp_path / "x.pt", zip_of(pickled, {"data/0": stored_bytes(torch.ones(2))}))
    assert_loads(path, {"x": torch.ones(2)})


UNSUPPORTED = {
    "no tensor": (lambda: torch_bytes({"step": 3}), "at least one tensor"),
    "same name twice": (lambda: torch_bytes({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}), "'a.b' twice"),
    "compressed zip": (
        lambda: zip_of(pickled_tensor(2, 0, (2,), (1,)), {"data/0": bytes(8)}, zipfile.ZIP_DEFLATED),
        "'archive/data.pkl' without compression, found a compressed",
    ),
    "zip without a pickle": (lambda: zip_of(b"", {}).replace(b"data.pkl", b"note.txt"), "one <root>/data.pkl"),
    "TorchScript": (lambda: zip_of(b"", {"constants.pkl": b""}), "found a TorchScript program"),
    "lazy conjugate": (lambda: torch_bytes({"x": torch.ones(2, dtype=torch.complex64).conj()}), "resolve_conj"),
    "sparse": (lambda: torch_bytes({"x": torch.ones(2).to_sparse()}), "torch._utils._rebuild_sparse_tensor"),
    "quantized": (
        lambda: torch_bytes({"x": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        "torch._utils._rebuild_qtensor",
    ),
    "another pickle": (lambda: b"\x80\x02}." + pickle.dumps(1001, 2) + b"\x80\x02}.", "magic number"),
    "byte order": (
        lambda: zip_of(pickled_tensor(2, 0, (2,), (1,)), {"data/0": bytes(8), "byteorder": b"middle"}),
        "'little' or 'big', found b'middle'",
    ),
    "expanded view": (lambda: torch_bytes({"x": torch.ones(1).expand(1000)}), r"save it with \.contiguous\(\)"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_files_are_rejected_with_advice(tmp_path, name):
    data, message = UNSUPPORTED[name]
    with pytest.raises(TensorFileError, match=message) as caught:
        open_tensors(written(tmp_path / "x.pt", data()))
    assert "x.pt: expected" in str(caught.value)


# Each describes a tensor over the 8 bytes of record 0: elements, offset, shape, strides.
OUT_OF_BOUNDS = {
    "shape": (2, 0, (3,), (1,)),
    "offset": (2, 1, (2,), (1,)),
    "strides": (2, 0, (2,), (2,)),
    "zero strides": (2, 0, (10**6, 10**6), (0, 0)),
    "overflow": (2, 0, (0, 2**40, 2**40), (1, 1, 1)),
    "negative size": (2, 0, (-1,), (1,)),
    "negative stride": (2, 1, (2,), (-1,)),
    "negative offset": (2, -1, (1,), (1,)),
    "rank": (2, 0, (1,) * 65, (1,) * 65),
    "strides of another rank": (2, 0, (2,), (1, 1)),
    "storage beyond its record": (2**40, 0, (2,), (1,)),
    "storage beyond 2**63": (2**62, 0, (2,), (1,)),
    "giant integers": (2**71 - 1, 2**71 - 1, (2**71 - 1,) * 64, (2**71 - 1,) * 64),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_sizes_are_checked_against_the_file(tmp_path, name):
    data = zip_of(pickled_tensor(*OUT_OF_BOUNDS[name]), {"data/0": bytes(8)})
    with pytest.raises(TensorFileError):
        open_tensors(written(tmp_path / "x.pt", data))


def test_missing_storage_is_reported(tmp_path):
    data = zip_of(pickled_tensor(2, 0, (2,), (1,), key="7"), {"data/0": bytes(8)})
    with pytest.raises(TensorFileError, match="storage record '7' of 'x', found no such record"):
        open_tensors(written(tmp_path / "x.pt", data))


def test_storage_length_differing_from_the_pickle_is_rejected(tmp_path):
    data = bytearray(torch_bytes({"x": torch.ones(4)}, legacy=True))
    data[-24] = 3
    with pytest.raises(TensorFileError, match="16 bytes in storage .* found 3 elements of float32"):
        open_tensors(written(tmp_path / "x.bin", data))


@LAYOUTS
def test_truncated_file_error_states_both_sizes(tmp_path, legacy):
    data = torch_bytes({"x": torch.ones(10_000)}, legacy)
    with pytest.raises(TensorFileError, match="20000.*download it again") as caught:
        open_tensors(written(tmp_path / "x.bin", data[:20_000]))
    assert not legacy or str(len(data)) in str(caught.value)


def test_torch_is_not_needed(tmp_path):
    path = written(tmp_path / "x.pt", torch_bytes(state_dict()))
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from jaxmodels.tensor_files import open_tensors\n"
        f"print(sum(entry.read().size for entry in open_tensors({str(path)!r}).values()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "36"
