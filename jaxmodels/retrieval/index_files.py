"""An index in a folder: a manifest, and rows in shards of `embeddings` [n, D] and, for int8, `scales` [n]."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxmodels.retrieval.manifest import BUILD_AGAIN, MANIFEST, Manifest, Shard, digest
from jaxmodels.retrieval.rows import Stored
from jaxmodels.tensor_files import TensorEntry, TensorFileError, open_tensors
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot
from jaxmodels.tensor_files.file_io import open_file
from jaxmodels.tensor_files.safetensors_file import write_tensors
from jaxmodels.tensor_files.validation import describe

SHARD_BYTES = 2**29


class IndexFiles:
    """A saved index, opened: every shard is compared with the manifest, and no row is read yet.

    Raises FileNotFoundError where there is no index; TensorFileError for a manifest or a shard that is damaged, cut
    short, missing, or of another index. Whether a shard's bytes are those that were written is seen when it is read.
    """

    def __init__(self, folder: str | Path | FolderSnapshot):
        self.manifest, self._entries = read_snapshot(folder, _open)
        self._checked: set[str] = set()

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([shard.first for shard in self.manifest.shards])

    def read(self, places: range) -> Iterator[tuple[int, Stored]]:
        """Those rows as they are stored, by shard: the first row's number, and arrays of that part alone.

        Plain reads and no memory map: of a file that got shorter they are an error, and no end of this process.

        Raises:
          TensorFileError: a shard whose bytes are not those that the manifest has the digest of, or that something was
            written into since it was opened.
        """
        start, stop = places.start, places.stop
        at = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            shard, entries = self.manifest.shards[at], self._entries[at]
            self._check_bytes(shard, entries["embeddings"])
            end = min(stop, shard.first + shard.rows)
            part = range(start - shard.first, end - shard.first)
            yield (
                start,
                (_rows(entries["embeddings"], part), _rows(entries["scales"], part) if "scales" in entries else None),
            )
            start, at = end, at + 1

    def _check_bytes(self, shard: Shard, entry: TensorEntry) -> None:
        """Once for each shard that is read."""
        if shard.sha256 is None or shard.file in self._checked:
            return
        if (found := digest(entry.file or open_file(entry.path))) != shard.sha256:
            raise TensorFileError(entry.path, f"sha256 {shard.sha256}, as {MANIFEST} says", found, BUILD_AGAIN)
        self._checked.add(shard.file)


def _open(folder: FolderSnapshot) -> tuple[Manifest, list[dict[str, TensorEntry]]]:
    manifest = Manifest.read(folder)
    return manifest, [_opened(folder, manifest, shard) for shard in manifest.shards]


def _opened(folder: FolderSnapshot, manifest: Manifest, shard: Shard) -> dict[str, TensorEntry]:
    path = folder / shard.file
    if not path.is_file():
        raise TensorFileError(folder / MANIFEST, f"{describe(shard.file)} beside it", "no such file", BUILD_AGAIN)
    if path.stat().st_size != shard.bytes:
        found = f"{path.stat().st_size}"
        raise TensorFileError(path, f"{shard.bytes} bytes, as {MANIFEST} says", found, BUILD_AGAIN)
    found = open_tensors(path)
    wanted = {"embeddings": (manifest.dtype, (shard.rows, manifest.width))}
    if manifest.dtype == np.int8:
        wanted["scales"] = (np.dtype(np.float32), (shard.rows,))
    kinds = {name: (entry.dtype, entry.shape) for name, entry in found.items()}
    if kinds != wanted:
        raise TensorFileError(path, _described(wanted), _described(kinds), BUILD_AGAIN)
    return found


def _described(kinds: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> str:
    return (
        ", ".join(f"{describe(name)} {dtype} {shape}" for name, (dtype, shape) in sorted(kinds.items())) or "no tensor"
    )


def _rows(entry: TensorEntry, part: range) -> np.ndarray:
    rows = np.empty((len(part), *entry.shape[1:]), entry.dtype)
    target = memoryview(rows.reshape(-1).view(np.uint8))  # numpy exports no buffer of the ml_dtypes types
    entry.fill(part.start * (len(target) // len(part)), target)
    return rows


def write_index(
    folder: Path,
    parts: Iterable[Stored],
    width: int,
    dtype: np.dtype,
    fingerprint: str | None,
    passages: str | None,
    shard_bytes: int,
) -> int:
    """Writes shards and manifest of stored rows into a folder, one shard in memory; returns the number of rows."""
    shards: list[Shard] = []
    rows = 0
    for part in _regrouped(parts, max(1, shard_bytes // (width * dtype.itemsize))):
        path = folder / _name(len(shards))
        write_shard(path, part)
        shards.append(Shard.of(path, rows, len(part[0])))
        rows += len(part[0])
    Manifest(rows, width, dtype, fingerprint, passages, tuple(shards)).write(folder)
    return rows


def write_shard(path: Path, part: Stored) -> None:
    """One shard of stored rows, as a file."""
    values, scales = part
    write_tensors(path, {"embeddings": values} | ({} if scales is None else {"scales": scales}))


def join_shards(folder: Path, paths: Sequence[Path], fingerprint: str | None, passages: str | None) -> None:
    """Makes an index of shards that `write_shard` wrote, in their order; all or nothing.

    The files get a second name in `folder`, on the same file system; what else is there stays.

    Args:
      fingerprint, passages: see `DenseIndex`.

    Raises:
      TensorFileError: a shard that is damaged, or of other rows than the first one has.
    """
    shards, rows, kind = [], 0, None
    with atomic_save(folder, "index") as staging:
        for path in paths:
            entry = open_tensors(path).get("embeddings")
            found = None if entry is None or len(entry.shape) != 2 else (entry.shape[1], entry.dtype)
            kind = kind or found
            if found is None or found != kind:
                raise TensorFileError(path, f"rows of {kind}" if kind else "rows of an index", f"{found}", BUILD_AGAIN)
            linked = staging / _name(len(shards))
            os.link(path, linked)
            shards.append(Shard.of(linked, rows, entry.shape[0]))
            rows += entry.shape[0]
        Manifest(rows, *kind, fingerprint, passages, tuple(shards)).write(staging)


def _name(number: int) -> str:
    return f"embeddings-{number + 1:05}.safetensors"


def _regrouped(parts: Iterable[Stored], size: int) -> Iterator[Stored]:
    """The same rows, in parts of exactly `size` rows (the last one may be smaller)."""
    waiting: list[Stored] = []
    count = 0
    for part in parts:
        start = 0
        while start < len(part[0]):
            taken = tuple(None if array is None else array[start : start + size - count] for array in part)
            waiting.append(taken)
            start, count = start + len(taken[0]), count + len(taken[0])
            if count == size:
                yield _joined(waiting)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Stored]) -> Stored:
    return tuple(None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*parts, strict=True))
