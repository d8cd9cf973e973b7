"""Calls of `generate` inside a program that the caller traces: under `jax.jit`, `vmap`, `lax.scan` or `shard_map`.

The loop is the same. What differs follows from one fact: values cannot be read there. So lengths are those of the
arrays (nothing is padded to a bucket, and the output is not cut), values are not checked, and nothing runs on the host.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import is_concrete

INSIDE = "inside a traced function (jit, vmap, scan or shard_map)"


class RoundUp(Protocol):
    """The length or batch size to which an input is padded: `search.bucket`, or inside a traced function `exact`."""

    def __call__(self, size: int, smallest: int = 32, steps: int = 2) -> int: ...


def exact(size: int, smallest: int = 32, steps: int = 2) -> int:
    """The size itself; the arguments are those of `search.bucket`."""
    return size


def is_traced(*values: Any) -> bool:
    """Whether one of the values, or a part of one, is traced; or every new array is, as in a jit without arguments."""
    leaves = [leaf for value in values for leaf in _leaves(value)]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in (jnp.int32(0), *leaves))


def array_module(*arrays: Any) -> Any:
    """The functions for arrays on the host where their values can be read, `jax.numpy` where they are traced."""
    return np if is_concrete(*arrays) else jnp


def reject_traced(values: Mapping[str, Any]) -> None:
    """Raises TypeError for a traced value of an option that determines the program."""
    for name, value in values.items():
        if traced := [leaf for leaf in _leaves(value) if isinstance(leaf, jax.core.Tracer)]:
            raise TypeError(
                f"{name} determines which program is compiled, so it cannot be traced; got a traced "
                f"{jax.typeof(traced[0])}: pass a Python value, or make it a static argument of your function"
            )


def reject_host_functions(**values: Any) -> None:
    """Raises ValueError that names the values that are set: each of them needs the host."""
    if found := [name for name, value in values.items() if value not in (None, ())]:
        raise ValueError(
            f"generate runs {INSIDE}, where nothing can run on the host; leave out {', '.join(found)}, or call it "
            "outside"
        )


def _leaves(value: Any) -> list[Any]:
    try:
        return jax.tree.leaves(value)
    except (TypeError, ValueError):  # keys of a dict that cannot be sorted
        return [value]
