"""The safetensors format: an 8-byte little-endian header length, a JSON header, the tensors' bytes back to back.

Parsed here and not by the `safetensors` library, because reading one tensor straight into a given array needs its
offset in the file, and the library maps the file into memory. Format: https://github.com/huggingface/safetensors
"""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from .entry import TensorEntry, to_torch
from .file_io import BoundedReader, OpenedFile
from .validation import MAX_TENSORS, SAVE_AGAIN, FormatError, byte_count, checked_sizes, describe

# 200,000 tensors take about this much. The library allows 100 MB, which as hostile JSON is 2 GB of Python objects.
MAX_HEADER = 25_000_000
DTYPES = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """The tensors of one file, by the names in its header; in one that Flax wrote, by their torch names.

    Raises FormatError.
    """
    with file.stream() as stream:
        reader = BoundedReader(stream, 0, file.size)
        length = int.from_bytes(reader.take(8), "little")
        if length > MAX_HEADER:
            raise FormatError(f"a header of at most {MAX_HEADER} bytes", f"a header length of {length}")
        header = parse_json_object(reader.take(length), "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("`__metadata__` as a JSON object of strings", describe(metadata))
    if len(header) > MAX_TENSORS:
        raise FormatError(f"at most {MAX_TENSORS} tensors", str(len(header)))
    entries = {name: _entry(name, description, file, 8 + length) for name, description in header.items()}
    _check_spans(entries, 8 + length, file.size)
    return to_torch(entries) if metadata.get("format") == "flax" else entries


def read_json_object(path: Path, what: str) -> dict:
    """Reads a file that holds one JSON object. Raises FormatError, also for a file above `MAX_HEADER` bytes."""
    file = OpenedFile(path)
    if file.size > MAX_HEADER:
        raise FormatError(f"{what} of at most {MAX_HEADER} bytes", f"{file.size}")
    with file.stream() as stream:
        return parse_json_object(stream.read(), what)


def parse_json_object(data: bytes, what: str) -> dict:
    """A JSON object without repeated keys, as a dict. Raises FormatError."""

    def distinct(pairs):
        if len(dict(pairs)) < len(pairs):
            raise FormatError(f"{what} with each key once", "a repeated key", SAVE_AGAIN)
        return dict(pairs)

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} as JSON", f"{len(data)} bytes that are not ({describe(str(error))})") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{what} as a JSON object", describe(parsed))
    return parsed


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
    # The format allows neither gaps nor overlaps, so that no byte is hidden or shared.
    position = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.spans, entry.name)):
        [(offset, count)] = entry.spans
        if offset != position:
            raise FormatError(f"the data of {describe(entry.name)} at byte {position}", f"byte {offset}")
        position += count
    if position != size:
        raise FormatError(f"a file of {position} bytes, as its header says", f"{size} bytes")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file that whoever may read its neighbours may read.

    Raises:
      OSError: the system would not write it, because the disk is full, say.
    """
    # safetensors 0.8 gives every file to its owner alone, and that on a machine that others work on, too.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    path.chmod(mode)
