"""Objects that the pickle of a torch file may create: storages, tensors as views of them, and plain containers.

The names and arguments are those of torch/_utils.py (the _rebuild functions) and torch/storage.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .unpickler import Constructor, set_item
from .validation import (
    SAVE_AGAIN,
    FormatError,
    byte_count,
    checked_sizes,
    describe,
    normalized_strides,
    view_extent,
)


@dataclass(frozen=True)
class StorageType:
    """A storage class of torch, which determines the dtype of the elements."""

    name: str
    dtype: np.dtype


@dataclass(frozen=True)
class Storage:
    """A storage, or a view of one.

    Attributes:
      key: of the storage record in the file.
      dtype: of the elements.
      start, nbytes: the bytes of the record that belong to this storage.
      record_nbytes: size of the record.
    """

    key: str
    dtype: np.dtype
    start: int
    nbytes: int
    record_nbytes: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it.

    Attributes:
      storage: the storage that it is a view of.
      start, nbytes: the bytes of the storage record from its first to its last element.
      shape: of the tensor.
      strides: in elements; None is C order.
      dtype: of the tensor.
    """

    storage: Storage
    start: int
    nbytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype


STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
TORCH_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}


def storage_of(persistent_id: object) -> Storage:
    """Returns the storage of a persistent id.

    Args:
      persistent_id: ("storage", class, key, device, elements), in the layout without zip with a sixth item: None, or
        (key, first element, elements) of a view.
    """
    if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
        found = persistent_id[0] if isinstance(persistent_id, tuple) and persistent_id else persistent_id
        raise FormatError("a reference to a storage", describe(found), SAVE_AGAIN)
    _, storage_type, key, _, elements = persistent_id[:5]
    if not isinstance(storage_type, StorageType) or not isinstance(key, str):
        raise FormatError("a storage class and key", f"{describe(storage_type)} and {describe(key)}", SAVE_AGAIN)
    itemsize = storage_type.dtype.itemsize
    record = byte_count(checked_sizes((elements,), "the length of a storage"), itemsize)
    view = None if len(persistent_id) == 5 else persistent_id[5]
    if view is None:
        return Storage(key, storage_type.dtype, 0, record, record)
    if not isinstance(view, tuple) or len(view) != 3:
        raise FormatError("key, offset and length of a view of a storage", describe(view))
    offset, length = checked_sizes(view[1:], "a view of a storage")
    if offset + length > elements:
        raise FormatError(f"a view within {elements} elements of storage {describe(key)}", f"{length} from {offset} on")
    return Storage(key, storage_type.dtype, offset * itemsize, length * itemsize, record)


def _view(storage: object, offset: object, size: object, stride: object, dtype: np.dtype | None = None) -> TensorView:
    if not isinstance(storage, Storage):
        raise FormatError("a tensor over a storage", f"one over {describe(storage)}", SAVE_AGAIN)
    dtype = dtype or storage.dtype
    shape, strides = checked_sizes(size, "a tensor's shape"), checked_sizes(stride, "a tensor's strides")
    (offset,) = checked_sizes((offset,), "a tensor's offset")
    if len(strides) != len(shape):
        raise FormatError(f"{len(shape)} strides for shape {shape}", f"{len(strides)}")
    if byte_count(shape, dtype.itemsize) > storage.nbytes:
        # With strides of 0 a few bytes could expand to terabytes.
        raise FormatError(
            f"a tensor within the {storage.nbytes} bytes of its storage",
            f"{dtype} of shape {shape}",
            "if it is an expanded view, save it with .contiguous(); if not, download the file again",
        )
    start, nbytes = offset * dtype.itemsize, view_extent(shape, strides) * dtype.itemsize
    if nbytes and start + nbytes > storage.nbytes:
        raise FormatError(
            f"a tensor within the {storage.nbytes} bytes of its storage",
            f"shape {shape} with strides {strides} from byte {start} on",
        )
    first = storage.start + start if nbytes else 0
    return TensorView(storage, first, nbytes, shape, normalized_strides(shape, strides), dtype)


def _rebuild_tensor_v2(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    metadata: object = None,
) -> TensorView:
    _check_metadata(metadata)
    return _view(storage, offset, size, stride)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> TensorView:
    _check_metadata(metadata)
    if not isinstance(dtype, np.dtype):
        raise FormatError("a torch dtype", describe(dtype))
    return _view(storage, offset, size, stride, dtype)


def _check_metadata(metadata: object) -> None:
    # Flags of lazy conjugation and negation, with which the stored bytes differ from the values.
    if metadata is not None and (not isinstance(metadata, dict) or any(metadata.values())):
        raise FormatError("plain tensors", "a lazily conjugated or negated one", "save it after .resolve_conj()")


def _rebuild_parameter(data: object, requires_grad: object, hooks: object) -> TensorView:
    if not isinstance(data, TensorView):
        raise FormatError("a parameter around a tensor", f"one around {describe(data)}", SAVE_AGAIN)
    return data


def _ordered_dict(pairs: object = ()) -> dict:
    result: dict = {}
    for pair in pairs if isinstance(pairs, list | tuple) else (pairs,):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError("an OrderedDict of key and value pairs", describe(pair))
        set_item(result, *pair)
    return result


def _size(sizes: object) -> tuple[int, ...]:
    return checked_sizes(sizes, "a torch.Size")


def _constructor(
    module: str, name: str, build: Callable, min_args: int, max_args: int
) -> tuple[tuple[str, str], Constructor]:
    return (module, name), Constructor(f"{module}.{name}", build, min_args, max_args)


GLOBALS: dict[tuple[str, str], object] = dict(
    [
        _constructor("torch._utils", "_rebuild_tensor", _view, 4, 4),
        _constructor("torch._utils", "_rebuild_tensor_v2", _rebuild_tensor_v2, 6, 7),
        _constructor("torch._utils", "_rebuild_tensor_v3", _rebuild_tensor_v3, 7, 8),
        _constructor("torch._utils", "_rebuild_parameter", _rebuild_parameter, 3, 3),
        _constructor("collections", "OrderedDict", _ordered_dict, 0, 1),
        _constructor("torch", "Size", _size, 1, 1),
    ]
)
GLOBALS |= {("torch", name): StorageType(name, np.dtype(dtype)) for name, dtype in STORAGE_DTYPES.items()}
GLOBALS["torch.storage", "UntypedStorage"] = StorageType("UntypedStorage", np.dtype(np.uint8))
GLOBALS |= {("torch", name): np.dtype(dtype) for name, dtype in TORCH_DTYPES.items()}
