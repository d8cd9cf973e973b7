"""Small checkpoint files and hand-made pickles for the tests of this folder."""

import io
import pickle
import zipfile
from collections import OrderedDict

import flax.serialization
import numpy as np
import safetensors.torch
import torch

TORCH_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def stored_bytes(values) -> bytes:
    """An array's or tensor's elements in C order; comparing bytes tells NaNs and signed zeros apart."""
    if isinstance(values, torch.Tensor):
        values = values.detach().resolve_conj().contiguous().flatten().view(torch.uint8).numpy()
    return values.tobytes()


def same(values: np.ndarray, tensor: torch.Tensor) -> bool:
    dtype_name = str(tensor.dtype).removeprefix("torch.")
    return (values.dtype.name, values.shape, stored_bytes(values)) == (
        dtype_name,
        tuple(tensor.shape),
        stored_bytes(tensor),
    )


def torch_bytes(root: object, legacy: bool = False, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(root, buffer, _use_new_zipfile_serialization=not legacy, **options)
    return buffer.getvalue()


def zip_of(pickled: bytes, records: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    """A zip as torch.save lays it out, around a pickle of our own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def text(value: str) -> bytes:
    """The pickle opcode that pushes a string."""
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def storage_pickle(elements: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """Opcodes that push a storage."""
    kind = b"ctorch\n" + kind.encode() + b"\n"
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(elements) + b"tQ"


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data


def numbers(values) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor_pickle(elements: int, offset: int, shape, strides, **storage) -> bytes:
    """Opcodes that push a tensor by `torch._utils._rebuild_tensor_v2`."""
    arguments = storage_pickle(elements, **storage) + number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89N" + b"tR"


def pickled_tensor(*arguments, **storage) -> bytes:
    """A whole pickle of `{"x": tensor}`."""
    return b"\x80\x02}" + text("x") + tensor_pickle(*arguments, **storage) + b"s."


def state_dict() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(4, 3)
    return OrderedDict(
        [
            ("embed.weight", weight),
            ("embed.transposed", weight.t()),
            ("norm.scale", torch.randn(3).bfloat16()),
            ("norm.count", torch.tensor(7)),
            ("mask", torch.tensor([True, False])),
            ("head.weight", torch.nn.Parameter(torch.randn(2, 3).half())),
        ]
    )


def sample_files() -> dict[str, bytes]:
    """One intact file of each format, by a file name with its suffix."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state_dict().items()}
    arrays = {"embed": {"kernel": np.arange(12.0).reshape(4, 3)}, "norm": {"scale": np.ones(3), "bias": np.zeros(3)}}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": np.ones(4), "1": np.zeros(2)}}
    return {
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
        "zip.pt": torch_bytes({"model": state_dict(), "step": 3, "history": [1.5, None]}),
        "legacy.bin": torch_bytes({"model": state_dict(), "step": 3}, legacy=True),
        "model.msgpack": flax.serialization.msgpack_serialize({"params": arrays, "big": chunked, "step": 3}),
    }
