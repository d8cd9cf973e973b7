"""Files of torch.save: .bin, .pt, .pth, in the zip layout (torch 1.6 and later) and the earlier plain pickle layout."""

from collections.abc import Mapping

from .entry import TensorEntry
from .errors import DOWNLOAD_AGAIN, Malformed, described
from .nesting import flatten
from .opened import OpenedFile
from .torch_legacy import read_legacy
from .torch_objects import TensorView
from .torch_zip import ZIP_MAGIC, read_zip

PICKLE_MAGIC = b"\x80"


def read_entries(file: OpenedFile) -> dict[str, TensorEntry]:
    """The tensors of one file under the dotted paths of the containers they lie in. Raises Malformed."""
    with file.stream() as stream:
        head = stream.read(len(ZIP_MAGIC))
        if head == ZIP_MAGIC:
            root, records, big_endian = read_zip(stream)
        elif head.startswith(PICKLE_MAGIC):
            (root, records), big_endian = (read_legacy(stream), False)  # that layout is little-endian on every machine
        else:
            raise Malformed(
                "a file of torch.save: a zip archive or a pickle", f"one that begins with {described(head)}"
            )
    views = flatten(root, TensorView)
    return {name: _entry(name, view, file, records, big_endian) for name, view in views.items()}


def _entry(
    name: str, view: TensorView, file: OpenedFile, records: Mapping[str, tuple[int, int]], big_endian: bool
) -> TensorEntry:
    key = view.storage.key
    if key not in records:
        raise Malformed(f"the storage record {described(key)} of {described(name)}", "no such record")
    offset, nbytes = records[key]
    if view.storage.record_nbytes > nbytes:
        raise Malformed(
            f"{view.storage.record_nbytes} bytes in storage record {described(key)}", f"{nbytes}", DOWNLOAD_AGAIN
        )
    spans = ((offset + view.start, view.nbytes),)
    return TensorEntry(name, view.shape, view.dtype, file.path, spans, view.strides, big_endian, file)
