"""Registers caches and outputs with `jax.export`, so that programs that take or return them can be written to files.

The serialized name is that of the class, wherever it is defined: `jaxmodels.Cache`.
"""

import json
from collections.abc import Iterator
from typing import Any

from jax.export import register_pytree_node_serialization

import jaxmodels.architectures  # noqa: F401 - defines outputs
from jaxmodels.layers.cache import BeamSlots, Cache, KeyValue, LayerCache
from jaxmodels.outputs import Output


def _subclasses(cls: type[Output]) -> Iterator[type[Output]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


# The static fields of these classes are numbers and flags.
def _to_bytes(static: Any) -> bytes:
    return json.dumps(static).encode()


def _from_bytes(data: bytes) -> Any:
    return tuple(json.loads(data))


for _cls in (Cache, LayerCache, KeyValue, BeamSlots, *_subclasses(Output)):
    register_pytree_node_serialization(
        _cls,
        serialized_name=f"jaxmodels.{_cls.__name__}",
        serialize_auxdata=_to_bytes,
        deserialize_auxdata=_from_bytes,
    )
