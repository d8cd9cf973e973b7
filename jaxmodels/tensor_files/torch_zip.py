"""torch.save's zip layout: `<root>/data.pkl`, `<root>/byteorder`, and `<root>/data/<key>` uncompressed per storage."""

import struct
import zipfile
from typing import BinaryIO

from .errors import SAVE_AGAIN, Malformed, described
from .reader import BoundedReader, file_size
from .torch_objects import GLOBALS, storage_of
from .unpickler import MAX_PICKLE, Unpickler

ZIP_MAGIC = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ENCRYPTED = 1


def read_zip(file: BinaryIO) -> tuple[object, dict[str, tuple[int, int]], bool]:
    """The unpickled root, the (offset, byte count) of each storage record by its key, and whether it is big-endian."""
    members = _members(file)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise Malformed("one <root>/data.pkl in the archive, as torch.save writes", f"{len(roots)}", SAVE_AGAIN)
    root = roots[0]
    if f"{root}/constants.pkl" in members:
        raise Malformed("weights", "a TorchScript program", SAVE_AGAIN)
    offset, count = members[f"{root}/data.pkl"]
    if count > MAX_PICKLE:
        raise Malformed(f"a data.pkl of at most {MAX_PICKLE} bytes", f"{count}", SAVE_AGAIN)
    tree = Unpickler(BoundedReader(file, offset, offset + count), GLOBALS, storage_of).load()
    prefix = f"{root}/data/"
    records = {name.removeprefix(prefix): span for name, span in members.items() if name.startswith(prefix)}
    return tree, records, _is_big_endian(file, members.get(f"{root}/byteorder"))


def _is_big_endian(file: BinaryIO, span: tuple[int, int] | None) -> bool:
    if span is None:  # torch before 2.1
        return False
    order = BoundedReader(file, span[0], sum(span)).take(min(span[1], 16))
    if order not in (b"little", b"big"):
        raise Malformed("the byteorder record 'little' or 'big'", described(order))
    return order == b"big"


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Name -> (offset, byte count) of each member's data. No checksum is looked at: torch can be told not to write
    them, and does not check them either."""
    size = file_size(file)
    try:
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
        raise Malformed(
            "a complete zip archive, whose directory is its last part", f"{size} bytes without one ({error})"
        ) from None
    return {info.filename: _data_span(file, info, archive.start_dir) for info in infos}


def _data_span(file: BinaryIO, info: zipfile.ZipInfo, end: int) -> tuple[int, int]:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise Malformed(f"{described(info.filename)} stored as it is", "a compressed or encrypted member", SAVE_AGAIN)
    reader = BoundedReader(file, info.header_offset, end)
    magic, *_, name_length, extra_length = LOCAL_HEADER.unpack(reader.take(LOCAL_HEADER.size))
    if magic != ZIP_MAGIC:
        raise Malformed(f"the member {described(info.filename)} at byte {info.header_offset}", "something else")
    reader.skip(name_length + extra_length)
    return reader.skip(info.file_size), info.file_size
