"""Check values of a folder's files, kept in a file beside them: damage is found before anything is read.

Orbax has none for what it compresses: a changed byte may restore other numbers and say nothing.
"""

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "digests.json"
# Orbax writes these once more when it gives a checkpoint its name.
_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}
_BLOCK = 1 << 26  # bytes that get a CRC-32 of their own, for several threads to share a file
_PIECE = 1 << 20


def write(folder: Path) -> None:
    """Writes the sizes and CRC-32s of all files in the folder to its `digests.json`."""
    sizes = {name: (folder / name).stat().st_size for name in sorted(_names(folder))}
    content: dict[str, dict] = {name: {"size": size, "crc32": []} for name, size in sizes.items()}
    for (name, _), value in _crcs(folder, [(name, at) for name, size in sizes.items() for at in _blocks(size)]):
        content[name]["crc32"].append(value)
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
            return f"{name} has {found:,} bytes of {size:,}"
    for (name, at), value in _crcs(folder, list(wanted)[part::parts]):
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


def _crcs(folder: Path, blocks: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], int]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(blocks, pool.map(lambda block: _crc(folder / block[0], block[1]), blocks), strict=True)


def _crc(file: Path, at: int) -> int:
    value, left = 0, _BLOCK
    with open(file, "rb") as stream:
        stream.seek(at)
        while left and (piece := stream.read(min(_PIECE, left))):
            value, left = zlib.crc32(piece, value), left - len(piece)
    return value
