"""The one error that a checkpoint file gives, and the advice it ends with."""

import math
import os
from collections.abc import Iterator, Sequence

from jaxmodels.messages import brief, truncate

DOWNLOAD_AGAIN = "the file is damaged or incomplete: download it again"
SAVE_AGAIN = "save the weights again, as safetensors or as a plain state dict: torch.save(model.state_dict(), path)"


MAX_MESSAGE = 500  # characters: a hostile file must not fill anybody's screen


class TensorFileError(ValueError):
    """A checkpoint file that is broken, cut short, hostile or of an unsupported kind.

    `path`, `expected`, `found` and `remedy` say the same as the message, piece by piece.
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
    """What the parsers raise: they see bytes and offsets, and only the caller knows which file they came from."""

    def __init__(self, expected: str, found: str, remedy: str = DOWNLOAD_AGAIN):
        super().__init__(expected, found, remedy)
        self.expected, self.found, self.remedy = expected, found, remedy

    def at(self, path: str | os.PathLike) -> TensorFileError:
        return TensorFileError(path, self.expected, self.found, self.remedy)


def describe(value: object) -> str:
    """A value from the file for an error message: containers and objects by their type only, for of a pickle's their
    repr may be longer than any file."""
    return brief(value) if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"


MAX_RANK = 64  # numpy's and torch's limit
MAX_BYTES = 2**63


def checked_sizes(sizes: object, what: str) -> tuple[int, ...]:
    """`sizes` as a tuple if it is a list or tuple of at most 64 integers in `[0, 2**63)`."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_RANK:
        raise FormatError(f"{what} with at most {MAX_RANK} dimensions", describe(sizes))
    for size in sizes:
        if type(size) is not int or not 0 <= size < MAX_BYTES:
            raise FormatError(f"{what} of non-negative integers", describe(size))
    return tuple(sizes)


def byte_count(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array. numpy refuses an overflow even where another dimension is 0, so that is checked as well."""
    if math.prod(max(size, 1) for size in shape) * itemsize >= MAX_BYTES:
        raise FormatError("a tensor of less than 2**63 bytes", f"shape {tuple(shape)}")
    return math.prod(shape) * itemsize


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last one that a view touches."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if math.prod(shape) else 0


def meaningful_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """None where the view is C-contiguous. The stride of a dimension of size 1 can be anything and becomes 0."""

    def used(values):
        return tuple(0 if size == 1 else value for size, value in zip(shape, values, strict=True))

    return None if math.prod(shape) == 0 or used(strides) == used(row_major(shape)) else used(strides)


# A few hundred bytes of pickle can describe a graph with 2**60 paths, or a cycle; these bounds are far above real
# checkpoints and keep such a file from taking the machine's time and memory.
MAX_NODES = 1_000_000
MAX_TENSORS = 200_000
MAX_NAME = 1024  # each level adds a character at least, so this bounds the depth, too


def flatten(tree: object, leaf_type: type) -> dict[str, object]:
    """Leaves of `leaf_type` under their dotted paths; dict keys and list positions are path parts, other leaves drop.

    A tree that is itself a leaf has the empty path.
    """
    leaves: dict[str, object] = {}
    for visited, (name, node) in enumerate(_walk(tree)):
        if visited >= MAX_NODES or len(leaves) >= MAX_TENSORS:
            raise FormatError(f"at most {MAX_TENSORS} tensors among {MAX_NODES} values", "more", SAVE_AGAIN)
        if isinstance(node, leaf_type):
            if name in leaves:
                raise FormatError("a different name for each tensor", f"{describe(name)} twice", SAVE_AGAIN)
            leaves[name] = node
    if not leaves:
        raise FormatError("at least one tensor", "none", "check that this is the file that holds the weights")
    return leaves


def _walk(tree: object) -> Iterator[tuple[str, object]]:
    yield "", tree
    pending = [_children("", tree)]
    while pending:
        name, node = next(pending[-1], (None, None))
        if name is None:
            pending.pop()
            continue
        yield name, node
        if isinstance(node, dict | list | tuple):
            pending.append(_children(f"{name}.", node))


def _children(prefix: str, node: object) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in items:
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise FormatError(f"tensor names of at most {MAX_NAME} characters", describe(name), SAVE_AGAIN)
        yield name, child
