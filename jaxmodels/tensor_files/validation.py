"""Errors and checks for the contents of untrusted files: sizes, strides and nested containers.

Everything is checked before memory is allocated for it.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

from jaxmodels.messages import brief, truncate

DOWNLOAD_AGAIN = "the file is damaged or incomplete: download it again"
SAVE_AGAIN = "save the weights again, as safetensors or as a plain state dict: torch.save(model.state_dict(), path)"
MAX_MESSAGE = 500  # characters, whatever the file contains

MAX_RANK = 64  # the limit of NumPy and torch
MAX_BYTES = 2**63

# A few hundred bytes of pickle can describe a graph with 2**60 paths, or a cycle. These limits are far above real
# checkpoints, and bound the time and memory that such a file can take.
MAX_NODES = 1_000_000
MAX_TENSORS = 200_000
MAX_NAME = 1024  # every level adds at least one character, so this bounds the depth as well

Leaf = TypeVar("Leaf")


class TensorFileError(ValueError):
    """A checkpoint file that is damaged, truncated, malicious or not supported.

    Attributes:
      path: the file.
      expected, found, remedy: the parts of the message.
    """

    def __init__(self, path: str | os.PathLike, expected: str, found: str, remedy: str = DOWNLOAD_AGAIN):
        super().__init__(path, expected, found, remedy)
        self.path, self.expected, self.found, self.remedy = path, expected, found, remedy

    def __str__(self) -> str:
        text = f"{self.path}: expected {self.expected}, found {self.found}; {self.remedy}"
        if len(text) <= MAX_MESSAGE:
            return text
        path = str(self.path)
        path = path if len(path) <= 120 else f"...{path[-117:]}"
        return f"{path}: expected {truncate(self.expected)}, found {truncate(self.found)}; {truncate(self.remedy, 110)}"


class FormatError(Exception):
    """Raised by parsers, which do not know the path of the file; `at` turns it into a TensorFileError."""

    def __init__(self, expected: str, found: str, remedy: str = DOWNLOAD_AGAIN):
        super().__init__(expected, found, remedy)
        self.expected, self.found, self.remedy = expected, found, remedy

    def at(self, path: str | os.PathLike) -> TensorFileError:
        return TensorFileError(path, self.expected, self.found, self.remedy)


def describe(value: object) -> str:
    """Describes a value from a file for an error message.

    Containers and objects are described by their type, because the repr of a pickled one can be longer than the file.
    """
    return brief(value) if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"


def checked_sizes(sizes: object, what: str) -> tuple[int, ...]:
    """Returns `sizes` as a tuple; it must be a list or tuple of at most 64 integers in [0, 2**63)."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_RANK:
        raise FormatError(f"{what} with at most {MAX_RANK} dimensions", describe(sizes))
    for size in sizes:
        if type(size) is not int or not 0 <= size < MAX_BYTES:
            raise FormatError(f"{what} of non-negative integers", describe(size))
    return tuple(sizes)


def byte_count(shape: Sequence[int], itemsize: int) -> int:
    """Returns the size of an array in bytes.

    Like NumPy, rejects dimensions whose product overflows even if another dimension is 0.
    """
    if math.prod(max(size, 1) for size in shape) * itemsize >= MAX_BYTES:
        raise FormatError("a tensor of less than 2**63 bytes", f"shape {tuple(shape)}")
    return math.prod(shape) * itemsize


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the strides, in elements, of a C-contiguous array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def view_extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Returns the number of elements from the first to the last one of a strided view."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if math.prod(shape) else 0


def normalized_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """Returns None for a C-contiguous view; else the strides, with 0 for dimensions of size 1, where any value goes."""

    def normalized(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(0 if size == 1 else value for size, value in zip(shape, values, strict=True))

    if math.prod(shape) == 0 or normalized(strides) == normalized(contiguous_strides(shape)):
        return None
    return normalized(strides)


def flatten(tree: object, leaf_type: type[Leaf]) -> dict[str, Leaf]:
    """Collects the leaves of one type from nested dicts, lists and tuples.

    Returns:
      The leaves by dotted path of dict keys and list positions; a tree that is a leaf has the empty path. Leaves of
      other types are left out.
    """
    leaves: dict[str, Leaf] = {}
    for visited, (name, node) in enumerate(_walk(tree)):
        if visited >= MAX_NODES or len(leaves) >= MAX_TENSORS:
            raise FormatError(f"at most {MAX_TENSORS} tensors among {MAX_NODES} values", "more", SAVE_AGAIN)
        if isinstance(node, leaf_type):
            if name in leaves:
                raise FormatError("a different name for each tensor", f"{describe(name)} twice", SAVE_AGAIN)
            leaves[name] = node
    if not leaves:
        raise FormatError("at least one tensor", "none", "check that this file contains the weights")
    return leaves


def _walk(tree: object) -> Iterator[tuple[str, object]]:
    yield "", tree
    pending = [_children("", tree)]
    while pending:
        item = next(pending[-1], None)
        if item is None:
            pending.pop()
            continue
        yield item
        name, node = item
        if isinstance(node, dict | list | tuple):
            pending.append(_children(f"{name}.", node))


def _children(prefix: str, node: object) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in items:
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise FormatError(f"tensor names of at most {MAX_NAME} characters", describe(name), SAVE_AGAIN)
        yield name, child
