"""torch.save's layout before the zip one.

Five pickles (magic number, version, machine, the object, the storages' keys), then for each key the element count in 8
bytes and the elements: little-endian on every machine.
"""

from collections.abc import Callable
from typing import BinaryIO

from .errors import SAVE_AGAIN, Malformed, described
from .reader import BoundedReader, file_size
from .torch_objects import GLOBALS, Storage, storage_of
from .unpickler import MAX_PICKLE, Unpickler, no_persistent_ids

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch/serialization.py
PROTOCOL_VERSION = 1001


def read_legacy(file: BinaryIO) -> tuple[object, dict[str, tuple[int, int]]]:
    """The unpickled root, and the (offset, byte count) of each storage by its key."""
    size = file_size(file)
    position = 0

    def load_next(resolve: Callable[[object], object] = no_persistent_ids) -> object:
        nonlocal position
        reader = BoundedReader(file, position, min(size, position + MAX_PICKLE))
        value = Unpickler(reader, GLOBALS, resolve).load()
        position = reader.position
        return value

    storages: dict[str, Storage] = {}

    def remember(pid: object) -> Storage:
        storage = storage_of(pid)
        storages.setdefault(storage.key, storage)
        return storage

    magic, version = load_next(), load_next()
    if magic != MAGIC_NUMBER or version != PROTOCOL_VERSION:
        found = f"the pickle of {described(magic)} and {described(version)}"
        raise Malformed("the magic number and version 1001 of torch.save", found, SAVE_AGAIN)
    load_next()  # the machine's sizes of C types, which the format does not depend on
    root, keys = load_next(remember), load_next()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise Malformed("the list of the keys of the storages", described(keys))
    return root, _records(BoundedReader(file, position, size), [storages[key] for key in keys])


def _records(reader: BoundedReader, storages: list[Storage]) -> dict[str, tuple[int, int]]:
    records = {}
    for storage in storages:
        elements = int.from_bytes(reader.take(8), "little")
        if elements * storage.dtype.itemsize != storage.record_nbytes:
            expected = f"{storage.record_nbytes} bytes in storage {described(storage.key)}"
            raise Malformed(expected, f"{elements} elements of {storage.dtype}")
        records[storage.key] = reader.skip(storage.record_nbytes), storage.record_nbytes
    return records
