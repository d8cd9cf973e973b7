"""Checks on shapes and strides that come from a file, before anything is allocated for them."""

import math
from collections.abc import Sequence

from .errors import Malformed, described

MAX_RANK = 64  # numpy's and torch's limit
MAX_BYTES = 2**63


def checked_sizes(sizes: object, what: str) -> tuple[int, ...]:
    """`sizes` as a tuple if it is a list or tuple of at most 64 integers in `[0, 2**63)`."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_RANK:
        raise Malformed(f"{what} with at most {MAX_RANK} dimensions", described(sizes))
    for size in sizes:
        if type(size) is not int or not 0 <= size < MAX_BYTES:
            raise Malformed(f"{what} of non-negative integers", described(size))
    return tuple(sizes)


def byte_count(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array. numpy refuses an overflow even where another dimension is 0, so that is checked as well."""
    if math.prod(max(size, 1) for size in shape) * itemsize >= MAX_BYTES:
        raise Malformed("a tensor of less than 2**63 bytes", f"shape {tuple(shape)}")
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
