"""Flax's msgpack files, written by flax.serialization and by transformers' Flax models."""

import flax.serialization
import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest
from support.tensor_file_samples import sample_files

from jaxmodels.tensor_files import TensorFileError, open_folder, open_tensors


@pytest.fixture(scope="module")
def gpt2():
    """A Flax GPT-2 with random parameters, and the state dict of the same model in torch."""
    from transformers import FlaxGPT2Model, GPT2Config, GPT2Model
    from transformers.modeling_flax_pytorch_utils import load_flax_weights_in_pytorch_model

    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=12)
    model = FlaxGPT2Model(config, _do_init=False)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), model.params_shape_tree)
    torch_model = load_flax_weights_in_pytorch_model(GPT2Model(config), params)
    return model, params, {name: values.numpy() for name, values in torch_model.state_dict().items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "2KB"}, {"safe_serialization": True}], ids=["one file", "shards", "safetensors"]
)
def test_flax_gpt2_folders_load_as_torch_tensors(tmp_path, gpt2, options):
    model, params, expected = gpt2
    model.save_pretrained(tmp_path, params=params, **options)
    assert len(list(tmp_path.iterdir())) == (2 if "max_shard_size" not in options else 7)
    entries = open_folder(tmp_path)
    assert entries.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(entries[name].read(), values)


def write(path, tree):
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def test_names_and_layouts(tmp_path):
    random = np.random.default_rng(0)
    tree = {
        "dense": {"kernel": random.normal(size=(4, 3)), "bias": np.arange(3)},
        "conv": {"kernel": random.normal(size=(2, 2, 3, 4))},
        "table": {"embedding": random.normal(size=(5, 3))},
        "norm": {"scale": np.ones(3, ml_dtypes.bfloat16), "mean": np.float32(2.5)},
        "kernel": {"query_bias": np.zeros((2, 2))},
        "step": 3,
        "note": "text",
        "state": {"rate": 0.5, "none": None, "on": True, "z": 1j, "raw": b"x" * 300},
    }
    entries = open_tensors(write(tmp_path / "flax_model.msgpack", tree))
    expected = {
        "dense.weight": tree["dense"]["kernel"].T,
        "dense.bias": tree["dense"]["bias"],
        "conv.kernel": tree["conv"]["kernel"],
        "table.weight": tree["table"]["embedding"],
        "norm.weight": tree["norm"]["scale"],
        "norm.mean": np.array(2.5, np.float32),
        "kernel.query_bias": tree["kernel"]["query_bias"],
    }
    assert entries.keys() == expected.keys()
    for name, values in expected.items():
        assert (entries[name].dtype, entries[name].shape) == (values.dtype, values.shape), name
        np.testing.assert_array_equal(entries[name].read(), values)


DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_header_sizes(tmp_path, dtype):
    tree = {f"x{size}": (np.arange(size) % 100).astype(dtype) for size in (0, 1, 20, 300, 70_000)}
    entries = open_tensors(write(tmp_path / "x.msgpack", tree))
    for name, values in flax.serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes()).items():
        assert entries[name].dtype == values.dtype
        assert entries[name].read().tobytes() == values.tobytes()


def test_chunked_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    path = write(tmp_path / "x.msgpack", {"a": {"kernel": values, "bias": values}})
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    entries = open_tensors(path)
    assert len(entries["a.bias"].spans) == 4
    np.testing.assert_array_equal(entries["a.bias"].read(), values)
    np.testing.assert_array_equal(entries["a.weight"].read(), values.T)


def array(shape=(2,), dtype="float32", data=bytes(8), code=1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def chunked(shape, chunks) -> dict:
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}


nested = {"x": array()}
for _ in range(70):
    nested = {"x": nested}

DAMAGED = {
    "empty file": (b"", "1 more bytes"),
    "array at the top": (msgpack.packb([array()]), "one msgpack map"),
    "bytes at the end": (msgpack.packb({"x": array()}) + b"\xc0", "fills the file"),
    "no tensor": (msgpack.packb({"x": 1}), "at least one tensor"),
    "unknown byte": (b"\x81\xa1x\xc1", "found byte 0xc1 at byte 3"),
    "number as a key": (msgpack.packb({1: array()}), "a map's key, found a msgpack number"),
    "key twice": (b"\x82" + 2 * (b"\xa1x" + msgpack.packb(array())), "'x' twice"),
    "key not UTF-8": (b"\x81\xa1\xff\xc0", "key in UTF-8"),
    "long key": (msgpack.packb({"x" * 5000: array()}), "at most 1024 bytes"),
    "nesting": (msgpack.packb(nested), "64 deep"),
    "endless arrays": (b"\x81\xa1x" + b"\x91" * 100_000, "64 deep"),
    "map longer than the file": (b"\xdf\xff\xff\xff\xff\xa1x\xc0", "1 more bytes"),
    "string longer than the file": (b"\x81\xa1x\xdb\xff\xff\xff\xff", "data up to byte 4294967303"),
    "array longer than the file": (b"\x81\xa1x\xc9\xff\xff\xff\xff\x01\x93\x91\x02\xa7float32", "1 more bytes"),
    "unknown dtype": (msgpack.packb({"x": array(dtype="object")}), "found 'object'"),
    "structured dtype": (msgpack.packb({"x": array(dtype="f4,(1000000000,)f4")}), "a dtype of"),
    "negative size": (msgpack.packb({"x": array((-2,))}), "non-negative"),
    "fractional size": (msgpack.packb({"x": array((2.0,))}), "a dimension"),
    "rank": (msgpack.packb({"x": array((1,) * 1000)}), "64 dimensions"),
    "shape of another size": (msgpack.packb({"x": array((3,))}), r"float32 array of shape \(3,\), found 8"),
    "data longer than its value": (msgpack.packb({"x": array()})[:-9] + b"\x09" + bytes(9), "found 9 bytes of data"),
    "bytes after the data": (
        msgpack.packb({"x": msgpack.ExtType(1, array().data + b"\xa1y\xc0")}).replace(b"\x81\xa1x", b"\x82\xa1x"),
        "found 8 bytes of data",
    ),
    "two fields": (msgpack.packb({"x": msgpack.ExtType(1, msgpack.packb(((2,), "float32")))}), "shape, dtype and data"),
    "missing chunks": (msgpack.packb({"x": chunked({"0": 4}, {"1": array()})}), "with the keys 0, 1"),
    "short chunks": (msgpack.packb({"x": chunked({"0": 4}, {"0": array()})}), "16 bytes in the chunks.*found 8"),
    "chunks of two dtypes": (
        msgpack.packb({"x": chunked({"0": 4}, {"0": array(), "1": array(dtype="int32")})}),
        "of one dtype",
    ),
    "chunks that are numbers": (msgpack.packb({"x": chunked({"0": 4}, {"0": 1})}), "the chunks of an array"),
    "shape that is a list": (msgpack.packb({"x": chunked([4], {"0": array()})}), "with the keys 0, 1"),
    "two names become one": (msgpack.packb({"a": {"scale": array(), "embedding": array()}}), "'a.weight' twice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_rejected(tmp_path, name):
    data, message = DAMAGED[name]
    path = tmp_path / "x.msgpack"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=message) as caught:
        open_tensors(path)
    assert str(caught.value).startswith(f"{path}: expected ")


def test_truncated_file_error_states_both_sizes(tmp_path):
    data = msgpack.packb({"x": array((1000,), data=bytes(4000))})
    path = tmp_path / "x.msgpack"
    path.write_bytes(data[:1500])
    with pytest.raises(TensorFileError, match=f"data up to byte {len(data)}, found an end at byte 1500.*download"):
        open_tensors(path)


def test_other_extensions_are_skipped(tmp_path):
    path = tmp_path / "x.msgpack"
    path.write_bytes(msgpack.packb({"x": array(), "y": array(code=9), "z": msgpack.ExtType(5, b"1234")}))
    assert list(open_tensors(path)) == ["x"]


def test_sample_file_equals_msgpack_restore(tmp_path):
    data = sample_files()["model.msgpack"]
    path = tmp_path / "x.msgpack"
    path.write_bytes(data)
    restored, entries = flax.serialization.msgpack_restore(data), open_tensors(path)
    np.testing.assert_array_equal(entries["params.embed.weight"].read(), restored["params"]["embed"]["kernel"].T)
    np.testing.assert_array_equal(entries["big"].read(), restored["big"])
