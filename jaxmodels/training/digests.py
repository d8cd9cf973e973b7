"""Checksums of the files of a folder, stored in a file beside them, to detect damage before anything is restored.

Orbax has none for compressed data: a changed byte may silently restore other numbers.
"""

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "digests.json"
# Orbax writes these again when it finalises a checkpoint.
_UNCHECKED = {"_CHECKPOINT_METADATA", "commit_success.txt"}
_BLOCK = 1 << 26  # bytes per CRC-32, so that several threads can share a file
_READ_BYTES = 1 << 20


def write(folder: Path) -> None:
    """Writes the sizes and CRC-32s of all files in the folder to `digests.json` in it."""
    sizes = {name: (folder / name).stat().st_size for name in sorted(_names(folder))}
    content: dict[str, dict] = {name: {"size": size, "crc32": []} for name, size in sizes.items()}
    for (name, _), value in _crcs(folder, [(name, at) for name, size in sizes.items() for at in _blocks(size)]):
        content[name]["crc32"].append(value)
    (folder / NAME).write_text(json.dumps(content))


def damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """Returns a description of the damage to a folder since `write`; None if its files are unchanged.

    Args:
      folder: folder to check.
      part: index of the part of the blocks to check, if several processes share the work.
      parts: number of parts.

    Raises:
      FileNotFoundError: the folder has no checksums.
    """
    text = (folder / NAME).read_bytes()
    try:
        expected = {
            (name, at): int(value)
            for name, file in json.loads(text).items()
            for at, value in zip(_blocks(file["size"]), file["crc32"], strict=True)
        }
        sizes = {str(name): int(file["size"]) for name, file in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{NAME} cannot be read ({type(error).__name__})"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if (found := file.stat().st_size) != size:
            return f"{name} has {found:,} of {size:,} bytes"
    for (name, at), value in _crcs(folder, list(expected)[part::parts]):
        if value != expected[name, at]:
            return f"{name} does not match its checksum"
    return None


def _names(folder: Path) -> Iterator[str]:
    for where, _, files in os.walk(folder):
        for file in files:
            name = (Path(where) / file).relative_to(folder).as_posix()
            if name not in {NAME, *_UNCHECKED}:
                yield name


def _blocks(size: int) -> range:
    return range(0, size, _BLOCK)


def _crcs(folder: Path, blocks: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], int]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(blocks, pool.map(lambda block: _crc(folder / block[0], block[1]), blocks), strict=True)


def _crc(file: Path, at: int) -> int:
    value, remaining = 0, _BLOCK
    with open(file, "rb") as stream:
        stream.seek(at)
        while remaining and (data := stream.read(min(_READ_BYTES, remaining))):
            value, remaining = zlib.crc32(data, value), remaining - len(data)
    return value
