"""Files of torch.save (.bin, .pt, .pth), in the zip layout of torch 1.6 and later, and in the earlier layout.

Zip layout: `<root>/data.pkl`, `<root>/byteorder`, and for each storage an uncompressed `<root>/data/<key>`.

Earlier layout: five pickles (magic number, version, machine, the object, the keys of the storages), then for each key
the number of elements in 8 bytes and the elements, little-endian on every machine.
"""

import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import BinaryIO

from .entry import TensorEntry
from .file_io import BoundedReader, OpenedFile, file_size
from .torch_objects import GLOBALS, Storage, TensorView, storage_of
from .unpickler import MAX_PICKLE, Unpickler, no_persistent_ids
from .validation import DOWNLOAD_AGAIN, SAVE_AGAIN, FormatError, describe, flatten

PICKLE_MAGIC = b"\x80"
ZIP_MAGIC = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ENCRYPTED = 1
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch/serialization.py
PROTOCOL_VERSION = 1001

Span = tuple[int, int]  # offset and byte count


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """Reads the pickles of a file.

    Returns:
      The tensors by dotted path of the nested containers.

    Raises:
      FormatError: an invalid file.
    """
    with file.stream() as stream:
        head = stream.read(len(ZIP_MAGIC))
        if head == ZIP_MAGIC:
            root, records, big_endian = _read_zip(stream)
        elif head.startswith(PICKLE_MAGIC):
            (root, records), big_endian = _read_legacy(stream), False
        else:
            raise FormatError("a file of torch.save: a zip archive or a pickle", f"{describe(head)} at its start")
    return {name: _entry(name, view, file, records, big_endian) for name, view in flatten(root, TensorView).items()}


def _entry(name: str, view: TensorView, file: OpenedFile, records: Mapping[str, Span], big_endian: bool) -> TensorEntry:
    key = view.storage.key
    if key not in records:
        raise FormatError(f"the storage record {describe(key)} of {describe(name)}", "no such record")
    offset, nbytes = records[key]
    if view.storage.record_nbytes > nbytes:
        raise FormatError(
            f"{view.storage.record_nbytes} bytes in storage record {describe(key)}", f"{nbytes}", DOWNLOAD_AGAIN
        )
    spans = ((offset + view.start, view.nbytes),)
    return TensorEntry(name, view.shape, view.dtype, file.path, spans, view.strides, big_endian, file)


def _read_zip(file: BinaryIO) -> tuple[object, dict[str, Span], bool]:
    """Returns the unpickled object, the record of each storage by key, and whether the data is big-endian."""
    members = _zip_members(file)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise FormatError("one <root>/data.pkl in the archive, as torch.save writes", f"{len(roots)}", SAVE_AGAIN)
    root = roots[0]
    if f"{root}/constants.pkl" in members:
        raise FormatError("weights", "a TorchScript program", SAVE_AGAIN)
    offset, count = members[f"{root}/data.pkl"]
    if count > MAX_PICKLE:
        raise FormatError(f"a data.pkl of at most {MAX_PICKLE} bytes", f"{count}", SAVE_AGAIN)
    tree = Unpickler(BoundedReader(file, offset, offset + count), GLOBALS, storage_of).load()
    prefix = f"{root}/data/"
    records = {name.removeprefix(prefix): span for name, span in members.items() if name.startswith(prefix)}
    return tree, records, _is_big_endian(file, members.get(f"{root}/byteorder"))


def _is_big_endian(file: BinaryIO, span: Span | None) -> bool:
    if span is None:  # torch before 2.1
        return False
    order = BoundedReader(file, span[0], sum(span)).take(min(span[1], 16))
    if order not in (b"little", b"big"):
        raise FormatError("the byteorder record 'little' or 'big'", describe(order))
    return order == b"big"


def _zip_members(file: BinaryIO) -> dict[str, Span]:
    """Returns the data of each member by name. Checksums are not verified: torch may omit them, and ignores them."""
    size = file_size(file)
    try:
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
        raise FormatError(
            "a complete zip archive, whose directory is its last part", f"{size} bytes without one ({error})"
        ) from None
    return {info.filename: _member_data(file, info, archive.start_dir) for info in infos}


def _member_data(file: BinaryIO, info: zipfile.ZipInfo, end: int) -> Span:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise FormatError(
            f"{describe(info.filename)} without compression", "a compressed or encrypted member", SAVE_AGAIN
        )
    reader = BoundedReader(file, info.header_offset, end)
    magic, *_, name_length, extra_length = LOCAL_HEADER.unpack(reader.take(LOCAL_HEADER.size))
    if magic != ZIP_MAGIC:
        raise FormatError(f"the member {describe(info.filename)} at byte {info.header_offset}", "something else")
    reader.skip(name_length + extra_length)
    return reader.skip(info.file_size), info.file_size


def _read_legacy(file: BinaryIO) -> tuple[object, dict[str, Span]]:
    """Returns the unpickled object, and the record of each storage by key."""
    size = file_size(file)
    position = 0

    def load_next(resolve: Callable[[object], object] = no_persistent_ids) -> object:
        nonlocal position
        reader = BoundedReader(file, position, min(size, position + MAX_PICKLE))
        value = Unpickler(reader, GLOBALS, resolve).load()
        position = reader.position
        return value

    storages: dict[str, Storage] = {}

    def resolve_storage(persistent_id: object) -> Storage:
        storage = storage_of(persistent_id)
        storages.setdefault(storage.key, storage)
        return storage

    magic, version = load_next(), load_next()
    if magic != MAGIC_NUMBER or version != PROTOCOL_VERSION:
        found = f"the pickle of {describe(magic)} and {describe(version)}"
        raise FormatError("the magic number and version 1001 of torch.save", found, SAVE_AGAIN)
    load_next()  # sizes of C types, which the format does not depend on
    root, keys = load_next(resolve_storage), load_next()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise FormatError("the list of the keys of the storages", describe(keys))
    return root, _legacy_records(BoundedReader(file, position, size), [storages[key] for key in keys])


def _legacy_records(reader: BoundedReader, storages: list[Storage]) -> dict[str, Span]:
    records = {}
    for storage in storages:
        elements = int.from_bytes(reader.take(8), "little")
        if elements * storage.dtype.itemsize != storage.record_nbytes:
            expected = f"{storage.record_nbytes} bytes in storage {describe(storage.key)}"
            raise FormatError(expected, f"{elements} elements of {storage.dtype}")
        records[storage.key] = reader.skip(storage.record_nbytes), storage.record_nbytes
    return records
