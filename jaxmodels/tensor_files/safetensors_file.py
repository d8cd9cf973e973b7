"""The safetensors format: an 8-byte little-endian header length, a JSON header, and the data of the tensors.

Files are parsed here instead of by the `safetensors` library, because reading a tensor into an existing array needs its
offset in the file, and the library maps the file into memory. Format: https://github.com/huggingface/safetensors
"""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from .entry import TensorEntry, flax_to_torch
from .file_io import MAX_JSON, BoundedReader, OpenedFile, parse_json_object
from .validation import MAX_TENSORS, SAVE_AGAIN, FormatError, byte_count, checked_sizes, describe

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """Reads the header of a file.

    Returns:
      The tensors by the names in the header, or by their torch names if Flax wrote the file.

    Raises:
      FormatError: an invalid file.
    """
    with file.stream() as stream:
        reader = BoundedReader(stream, 0, file.size)
        length = int.from_bytes(reader.take(8), "little")
        if length > MAX_JSON:
            raise FormatError(f"a header of at most {MAX_JSON} bytes", f"a header length of {length}")
        header = parse_json_object(reader.take(length), "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("`__metadata__` as a JSON object of strings", describe(metadata))
    if len(header) > MAX_TENSORS:
        raise FormatError(f"at most {MAX_TENSORS} tensors", str(len(header)))
    entries = {name: _entry(name, description, file, 8 + length) for name, description in header.items()}
    _check_spans(entries, 8 + length, file.size)
    return flax_to_torch(entries) if metadata.get("format") == "flax" else entries


def _entry(name: str, description: object, file: OpenedFile, data_start: int) -> TensorEntry:
    if not isinstance(description, dict) or description.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"dtype, shape and data_offsets of tensor {describe(name)}", describe(description))
    dtype = DTYPES.get(description["dtype"]) if isinstance(description["dtype"], str) else None
    if dtype is None:
        raise FormatError(
            f"a dtype of {', '.join(DTYPES)} for {describe(name)}", describe(description["dtype"]), SAVE_AGAIN
        )
    shape = checked_sizes(description["shape"], f"the shape of {describe(name)}")
    offsets = checked_sizes(description["data_offsets"], f"the data_offsets of {describe(name)}")
    count = byte_count(shape, dtype.itemsize)
    if len(offsets) != 2 or offsets[1] - offsets[0] != count:
        raise FormatError(f"{count} bytes for {describe(name)}, {dtype} of shape {shape}", f"data_offsets {offsets}")
    return TensorEntry(name, shape, dtype, file.path, ((data_start + offsets[0], count),), file=file)


def _check_spans(entries: dict[str, TensorEntry], data_start: int, size: int) -> None:
    # The format allows neither gaps nor overlaps, so that no bytes are hidden or shared.
    position = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.spans, entry.name)):
        [(offset, count)] = entry.spans
        if offset != position:
            raise FormatError(f"the data of {describe(entry.name)} at byte {position}", f"byte {offset}")
        position += count
    if position != size:
        raise FormatError(f"a file of {position} bytes, as its header says", f"{size} bytes")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file with the default permissions of new files.

    Raises:
      OSError: writing failed, e.g. because the disk is full.
    """
    # safetensors 0.8 makes every file readable by its owner only, also on shared machines.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    path.chmod(mode)
