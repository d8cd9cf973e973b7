"""An index on disk: the manifest `dense_index.json` and shards of rows in safetensors files.

The manifest holds format, version, rows, width, dtype, fingerprint, passages (digest of the passages that the rows
embed, or null) and, for each shard, its file, first row, number of rows, bytes and sha256 (without it the shard is
loaded unchecked). A shard holds `embeddings` [n, D] and, for int8, `scales` [n].
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxmodels.retrieval.rows import DTYPES, EncodedRows
from jaxmodels.tensor_files import TensorEntry, TensorFileError, open_tensors
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, is_plain_filename, read_snapshot
from jaxmodels.tensor_files.file_io import OpenedFile, open_file, read_json_object
from jaxmodels.tensor_files.safetensors_file import write_tensors
from jaxmodels.tensor_files.validation import FormatError, describe

MANIFEST = "dense_index.json"
FORMAT = "jaxmodels.DenseIndex"
REBUILD = "copy the folder again, or build the index again"
SHARD_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows `first` to `first + rows - 1`, in a file of `bytes` bytes beside the manifest, with its digest if known."""

    file: str
    first: int
    rows: int
    bytes: int
    sha256: str | None = None

    @classmethod
    def from_file(cls, path: Path, first: int, rows: int) -> Self:
        """Describes an existing shard file."""
        file = open_file(path)
        return cls(path.name, first, rows, file.size, file_digest(file))


def file_digest(file: OpenedFile) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with file.stream() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO has readinto


@dataclasses.dataclass(frozen=True)
class IndexManifest:
    """Contents of `dense_index.json`; see the module's docstring."""

    rows: int
    width: int
    dtype: np.dtype
    fingerprint: str | None
    passages: str | None
    shards: tuple[Shard, ...]

    def write(self, folder: Path) -> None:
        """Writes the manifest into the folder."""
        fields = {**dataclasses.asdict(self), "dtype": self.dtype.name}
        text = json.dumps({"format": FORMAT, "version": 1, **fields}, indent=2)
        (folder / MANIFEST).write_text(text + "\n")

    @classmethod
    def read(cls, folder: FolderSnapshot) -> Self:
        """Reads the manifest; raises FileNotFoundError if there is none, TensorFileError if it is invalid."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"no index in {folder}: expected {MANIFEST}, as written by DenseIndex.save")
        try:
            return cls._parse(read_json_object(path, "the manifest"))
        except FormatError as error:
            raise error.at(path) from None

    @classmethod
    def _parse(cls, found: dict[str, Any]) -> Self:
        name, version = found.get("format"), found.get("version")
        if (name, version) != (FORMAT, 1):
            raise FormatError(f"format {FORMAT}, version 1", f"{describe(name)}, {describe(version)}", REBUILD)
        dtype, fingerprint, passages = (found.get(key) for key in ("dtype", "fingerprint", "passages"))
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FormatError(f"dtype to be one of {', '.join(DTYPES)}", describe(dtype), REBUILD)
        if not isinstance(fingerprint, str | None):
            raise FormatError("fingerprint to be a string or null", describe(fingerprint), REBUILD)
        if not isinstance(passages, str | None):
            raise FormatError("passages to be a digest, a string or null", describe(passages), REBUILD)
        entries = found.get("shards")
        if not isinstance(entries, list) or not entries:
            raise FormatError("a list of shards", describe(entries), REBUILD)
        rows, width = _parse_count(found, "rows"), _parse_count(found, "width")
        shards, first = tuple(map(_parse_shard, entries)), 0
        for shard in shards:
            if shard.first != first:
                raise FormatError(
                    f"a shard that starts at row {first}", f"{describe(shard.file)} with {shard.first}", REBUILD
                )
            first += shard.rows
        if first != rows:
            raise FormatError(f"shards of {rows} rows in total", f"{first}", REBUILD)
        return cls(rows, width, DTYPES[dtype], fingerprint, passages, shards)


def _parse_count(found: dict[str, Any], key: str, minimum: int = 1) -> int:
    value = found.get(key)
    if type(value) is not int or not minimum <= value < 2**63:
        raise FormatError(f"{key} to be an integer of at least {minimum}", describe(value), REBUILD)
    return value


def _parse_shard(found: object) -> Shard:
    if not isinstance(found, dict):
        raise FormatError("file, first, rows and bytes of each shard", describe(found), REBUILD)
    file = found.get("file")
    # A shard must lie beside its manifest: a manifest must not be able to name any other file of this machine.
    if not isinstance(file, str) or not is_plain_filename(file):
        raise FormatError("names of files in the manifest's folder", describe(file), REBUILD)
    sha256 = found.get("sha256")
    if not isinstance(sha256, str | None):
        raise FormatError("sha256 to be a string or null", describe(sha256), REBUILD)
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise FormatError("sha256 to have 64 hexadecimal digits", describe(sha256), REBUILD)
    counts = _parse_count(found, "first", 0), _parse_count(found, "rows"), _parse_count(found, "bytes")
    return Shard(file, *counts, sha256)


class IndexFiles:
    """An opened index on disk: every shard is checked against the manifest, no row is read yet.

    The content of a shard is checked against its digest when it is first read.

    Raises:
      FileNotFoundError: there is no index.
      TensorFileError: the manifest or a shard is damaged, truncated, missing or belongs to another index.
    """

    def __init__(self, folder: str | Path | FolderSnapshot):
        self.manifest, self._entries = read_snapshot(folder, _open)
        self._checked: set[str] = set()

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([shard.first for shard in self.manifest.shards])

    def read(self, rows: range) -> Iterator[tuple[int, EncodedRows]]:
        """Yields a range of rows shard by shard: the first row's index and the stored arrays of that part.

        Files are read, not memory-mapped: if one is truncated meanwhile, this raises instead of killing the process.

        Raises:
          TensorFileError: a shard does not match its digest in the manifest, or was written to after it was opened.
        """
        start, stop = rows.start, rows.stop
        at = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            shard, entries = self.manifest.shards[at], self._entries[at]
            self._check_digest(shard, entries["embeddings"])
            end = min(stop, shard.first + shard.rows)
            part = range(start - shard.first, end - shard.first)
            scales = _read_rows(entries["scales"], part) if "scales" in entries else None
            yield start, (_read_rows(entries["embeddings"], part), scales)
            start, at = end, at + 1

    def _check_digest(self, shard: Shard, entry: TensorEntry) -> None:
        """Checks each shard once."""
        if shard.sha256 is None or shard.file in self._checked:
            return
        if (found := file_digest(entry.file or open_file(entry.path))) != shard.sha256:
            raise TensorFileError(entry.path, f"sha256 {shard.sha256}, as in {MANIFEST}", found, REBUILD)
        self._checked.add(shard.file)


def _open(folder: FolderSnapshot) -> tuple[IndexManifest, list[dict[str, TensorEntry]]]:
    manifest = IndexManifest.read(folder)
    return manifest, [_open_shard(folder, manifest, shard) for shard in manifest.shards]


def _open_shard(folder: FolderSnapshot, manifest: IndexManifest, shard: Shard) -> dict[str, TensorEntry]:
    path = folder / shard.file
    if not path.is_file():
        raise TensorFileError(folder / MANIFEST, f"{describe(shard.file)} in its folder", "no such file", REBUILD)
    if path.stat().st_size != shard.bytes:
        raise TensorFileError(path, f"{shard.bytes} bytes, as in {MANIFEST}", f"{path.stat().st_size}", REBUILD)
    found = open_tensors(path)
    expected: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "embeddings": (manifest.dtype, (shard.rows, manifest.width))
    }
    if manifest.dtype == np.int8:
        expected["scales"] = (np.dtype(np.float32), (shard.rows,))
    actual = {name: (entry.dtype, entry.shape) for name, entry in found.items()}
    if actual != expected:
        raise TensorFileError(path, _describe_tensors(expected), _describe_tensors(actual), REBUILD)
    return found


def _describe_tensors(tensors: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> str:
    parts = (f"{describe(name)} {dtype} {shape}" for name, (dtype, shape) in sorted(tensors.items()))
    return ", ".join(parts) or "no tensor"


def _read_rows(entry: TensorEntry, part: range) -> np.ndarray:
    rows = np.empty((len(part), *entry.shape[1:]), entry.dtype)
    target = rows.reshape(-1).view(np.uint8).data  # NumPy exports no buffer of ml_dtypes' types
    entry.fill(part.start * (len(target) // len(part)), target)
    return rows


def write_index(
    folder: Path,
    parts: Iterable[EncodedRows],
    width: int,
    dtype: np.dtype,
    fingerprint: str | None,
    passages: str | None,
    shard_bytes: int,
) -> int:
    """Writes shards and manifest into a folder, with one shard in memory at a time; returns the number of rows."""
    shards: list[Shard] = []
    rows = 0
    for part in _rechunk(parts, max(1, shard_bytes // (width * dtype.itemsize))):
        path = folder / _shard_name(len(shards))
        write_shard(path, part)
        shards.append(Shard.from_file(path, rows, len(part[0])))
        rows += len(part[0])
    IndexManifest(rows, width, dtype, fingerprint, passages, tuple(shards)).write(folder)
    return rows


def write_shard(path: Path, part: EncodedRows) -> None:
    """Writes encoded rows as one shard file."""
    values, scales = part
    write_tensors(path, {"embeddings": values} | ({} if scales is None else {"scales": scales}))


def join_shards(folder: Path, paths: Sequence[Path], fingerprint: str | None, passages: str | None) -> None:
    """Creates an index from shards written by `write_shard`, in their order, atomically.

    The files are hard-linked into `folder`, which must be on the same file system; other files in it stay.

    Args:
      folder: folder of the new index.
      paths: shard files.
      fingerprint: see `DenseIndex`.
      passages: see `DenseIndex`.

    Raises:
      TensorFileError: a shard is damaged, or differs from the first one in width or dtype.
      ValueError: no shards.
    """
    shards: list[Shard] = []
    rows, expected = 0, None
    with atomic_save(folder, "index") as staging:
        for path in paths:
            entry = open_tensors(path).get("embeddings")
            found = None if entry is None or len(entry.shape) != 2 else (entry.shape[1], entry.dtype)
            expected = expected or found
            if entry is None or found is None or found != expected:
                raise TensorFileError(
                    path, f"rows of {expected}" if expected else "rows of an index", f"{found}", REBUILD
                )
            linked = staging / _shard_name(len(shards))
            os.link(path, linked)
            shards.append(Shard.from_file(linked, rows, entry.shape[0]))
            rows += entry.shape[0]
        if expected is None:
            raise ValueError("no shards: an index must have at least one row")
        IndexManifest(rows, *expected, fingerprint, passages, tuple(shards)).write(staging)


def _shard_name(number: int) -> str:
    return f"embeddings-{number + 1:05}.safetensors"


def _rechunk(parts: Iterable[EncodedRows], size: int) -> Iterator[EncodedRows]:
    """Regroups the rows into parts of exactly `size` rows; the last one may be smaller."""
    pending: list[EncodedRows] = []
    count = 0
    for values, scales in parts:
        start = 0
        while start < len(values):
            stop = start + size - count
            pending.append((values[start:stop], None if scales is None else scales[start:stop]))
            start, count = start + len(pending[-1][0]), count + len(pending[-1][0])
            if count == size:
                yield _concatenate(pending)
                pending, count = [], 0
    if pending:
        yield _concatenate(pending)


def _concatenate(parts: list[EncodedRows]) -> EncodedRows:
    scales = [part for _, part in parts if part is not None]
    return np.concatenate([values for values, _ in parts]), np.concatenate(scales) if scales else None
