"""Check values of a folder's files, kept in a file beside them: damage is found before anything is read.

Orbax has none for what it compresses: a changed byte may restore other numbers and say nothing.
"""

import io
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

NAME = "digests.json"
# Orbax writes these once more when it gives a checkpoint its name.
_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}
_BLOCK = 1 << 26  # bytes that get a check value of their own, for several threads to share a file
_PIECE, _PAGE = 1 << 20, 1 << 12


def write(folder: Path) -> None:
    """Writes the sizes and check values of all files in the folder to its `digests.json`."""
    sizes = {name: (folder / name).stat().st_size for name in sorted(_names(folder))}
    content: dict[str, dict] = {name: {"size": size, "checks": []} for name, size in sizes.items()}
    for (name, _), value in _checks(folder, [(name, at) for name, size in sizes.items() for at in _blocks(size)]):
        content[name]["checks"].append(value)
    (folder / NAME).write_text(json.dumps(content))


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with the files of a folder that `write` has seen; None: they are what they were.

    Args:
      part, parts: only this part of the bytes is read, for processes that share the work.

    Raises:
      FileNotFoundError: `write` has not seen this folder.
    """
    text = (folder / NAME).read_bytes()
    try:
        wanted = {
            (name, at): int(value)
            for name, file in json.loads(text).items()
            for at, value in zip(_blocks(file["size"]), file["checks"], strict=True)
        }
        sizes = {str(name): int(file["size"]) for name, file in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{NAME} cannot be read ({type(error).__name__})"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found:,} bytes of {size:,}"
    for (name, at), value in _checks(folder, list(wanted)[part::parts]):
        if value != wanted[name, at]:
            return f"{name} holds other bytes than were written"
    return None


def _names(folder: Path) -> Iterator[str]:
    for where, _, files in os.walk(folder):
        for file in files:
            name = (Path(where) / file).relative_to(folder).as_posix()
            if name not in {NAME, *_LATER}:
                yield name


def _blocks(size: int) -> range:
    return range(0, size, _BLOCK)


def _checks(folder: Path, blocks: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], int]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(blocks, pool.map(lambda block: _check(folder / block[0], block[1]), blocks), strict=True)


def _check(file: Path, at: int) -> int:
    """Of a block: the CRC-32 of the sums of 64-bit words over every 4 KiB.

    A third of the time of a CRC-32 of all bytes; any damage in one place changes a sum, and pages cannot trade places.
    """
    value, piece = 0, bytearray(_PIECE)
    words = np.frombuffer(piece, np.uint64).reshape(-1, _PAGE // 8)
    with open(file, "rb", buffering=0) as stream:
        stream.seek(at)
        for _ in range(_BLOCK // _PIECE):
            read = _fill(stream, memoryview(piece))
            piece[read:] = bytes(_PIECE - read)
            value = zlib.crc32(words[: -(-read // _PAGE)].sum(axis=1), value)
            if read < _PIECE:
                break
    return value


def _fill(stream: io.RawIOBase, piece: memoryview) -> int:
    """Reads until the piece is full or the file at its end; the number of bytes."""
    read = 0
    while read < len(piece) and (got := stream.readinto(piece[read:])):
        read += got
    return read
