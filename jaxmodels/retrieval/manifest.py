"""What a saved index is: the JSON file that says which rows lie in which shard.

`dense_index.json`: format, version, rows, width, dtype, fingerprint, passages (the digest of those the rows are of, or
null), and for each shard its file, first row, number of rows, bytes and sha256 (an index without it is loaded
unchecked).
"""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Self

import numpy as np

from jaxmodels.retrieval.rows import DTYPES
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, is_plain_filename
from jaxmodels.tensor_files.file_io import OpenedFile, open_file
from jaxmodels.tensor_files.safetensors_file import read_json_object
from jaxmodels.tensor_files.validation import FormatError, describe

MANIFEST = "dense_index.json"
FORMAT = "jaxmodels.DenseIndex"
BUILD_AGAIN = "copy the folder again, or build the index again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows `first` to `first + rows - 1`, in a file of `bytes` bytes beside the manifest, and its digest if known."""

    file: str
    first: int
    rows: int
    bytes: int
    sha256: str | None = None

    @classmethod
    def of(cls, path: Path, first: int, rows: int) -> Self:
        """Of a file that is there."""
        file = open_file(path)
        return cls(path.name, first, rows, file.size, digest(file))


def digest(file: OpenedFile) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with file.stream() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    rows: int
    width: int
    dtype: np.dtype
    fingerprint: str | None
    passages: str | None
    shards: tuple[Shard, ...]

    def write(self, folder: Path) -> None:
        described = {**dataclasses.asdict(self), "dtype": self.dtype.name}
        text = json.dumps({"format": FORMAT, "version": 1, **described}, indent=2)
        (folder / MANIFEST).write_text(text + "\n")

    @classmethod
    def read(cls, folder: FolderSnapshot) -> Self:
        """Raises FileNotFoundError where there is none, TensorFileError where it is not a manifest of ours."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"no index in {folder}: expected {MANIFEST}, as DenseIndex.save writes it")
        try:
            return cls._parsed(read_json_object(path, "the manifest"))
        except FormatError as error:
            raise error.at(path) from None

    @classmethod
    def _parsed(cls, found: dict) -> Self:
        kind = (found.get("format"), found.get("version"))
        if kind != (FORMAT, 1):
            raise FormatError(f"format {FORMAT}, version 1", f"{describe(kind[0])}, {describe(kind[1])}", BUILD_AGAIN)
        dtype, fingerprint, passages = (found.get(key) for key in ("dtype", "fingerprint", "passages"))
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FormatError(f"a dtype of {', '.join(DTYPES)}", describe(dtype), BUILD_AGAIN)
        if not isinstance(fingerprint, str | None):
            raise FormatError("a fingerprint that is text or null", describe(fingerprint), BUILD_AGAIN)
        if not isinstance(passages, str | None):
            raise FormatError("a digest of the passages that is text or null", describe(passages), BUILD_AGAIN)
        entries = found.get("shards")
        if not isinstance(entries, list) or not entries:
            raise FormatError("a list of shards", describe(entries), BUILD_AGAIN)
        rows, width = _count(found, "rows"), _count(found, "width")
        shards, first = tuple(map(_shard, entries)), 0
        for shard in shards:
            if shard.first != first:
                raise FormatError(
                    f"a shard that begins with row {first}", f"{describe(shard.file)} with {shard.first}", BUILD_AGAIN
                )
            first += shard.rows
        if first != rows:
            raise FormatError(f"shards of {rows} rows in all", f"{first}", BUILD_AGAIN)
        return cls(rows, width, DTYPES[dtype], fingerprint, passages, shards)


def _count(found: dict, key: str, least: int = 1) -> int:
    value = found.get(key)
    if type(value) is not int or not least <= value < 2**63:
        raise FormatError(f"{key} as an integer from {least} on", describe(value), BUILD_AGAIN)
    return value


def _shard(found: object) -> Shard:
    if not isinstance(found, dict):
        raise FormatError("file, first, rows and bytes of each shard", describe(found), BUILD_AGAIN)
    file = found.get("file")
    # A shard lies beside its manifest: the name of any other file on this machine is not the manifest's to give.
    if not is_plain_filename(file):
        raise FormatError("the names of files beside the manifest", describe(file), BUILD_AGAIN)
    sha256 = found.get("sha256")
    if not isinstance(sha256, str | None):
        raise FormatError("a sha256 that is text or null", describe(sha256), BUILD_AGAIN)
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise FormatError("a sha256 of 64 hexadecimal digits", describe(sha256), BUILD_AGAIN)
    return Shard(file, _count(found, "first", 0), _count(found, "rows"), _count(found, "bytes"), sha256)
