"""Symbolic dimensions of `jax.export`: sizes that a program leaves open.

A choice by size then takes the form that is right for all of them.
"""

from collections.abc import Callable

import jax
from jax.export import is_symbolic_dim
from jax.extend.core import InconclusiveDimensionOperation


def has_symbolic_dims(*arrays: jax.Array) -> bool:
    """Whether a dimension of one of the arrays is symbolic."""
    return any(is_symbolic_dim(size) for x in arrays for size in x.shape)


def is_certain(condition: Callable[[], bool]) -> bool:
    """Whether a condition on sizes holds; False where it depends on the value of a symbolic dimension.

    Examples:
      >>> (length,) = jax.export.symbolic_shape("length")
      >>> pallas_kernels.is_certain(lambda: length >= 1), pallas_kernels.is_certain(lambda: length > 8)
      (True, False)
    """
    try:
        return bool(condition())
    except InconclusiveDimensionOperation:
        return False
