"""Which calls of `generate` compiled something, and what in them was new."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxmodels.generation import loop

Signature = dict[str, str]

KEPT = 1000
FLAX = ("parent", "name")  # fields of every module
_programs: collections.deque["Program"] = collections.deque(maxlen=KEPT)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled decoding loop.

    Attributes:
      signature: what the program was compiled for: name -> shape and type of an array, or a static value.
      changes: what of it differs from the nearest program before, in words; empty for the first.
    """

    signature: Signature
    changes: tuple[str, ...]


def counts() -> dict[str, int]:
    """How often each part of the decoding loop has been compiled in this process."""
    programs: dict[str, Any] = {"start": loop.start, "go on": loop.go_on}
    return {name: program._cache_size() for name, program in programs.items()}


def compiled() -> int:
    """Decoding loops that have been compiled in this process."""
    return sum(counts().values())


def note(before: dict[str, int], arguments: dict[str, Any]) -> None:
    """Records what these arguments compiled since the counts were those."""
    for name in (name for name, count in counts().items() if count > before[name]):
        signature = dict(_described("part", name))
        for argument, value in arguments.items():
            signature |= _described(argument, value)
        _programs.append(Program(signature, _nearest_changes(signature)))


def explain_recompiles() -> str:
    """For every decoding loop that was compiled in this process, what was new against the nearest one before.

    What does not appear is traced: other values of it compile nothing. The last thousand are kept.
    """
    if not _programs:
        return "no decoding loop has been compiled yet"
    lines = []
    for number, program in enumerate(_programs, 1):
        lines.append(f"program {number}: " + ("the first" if not program.changes else "; ".join(program.changes)))
    return "\n".join(lines)


def _described(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """What a program is compiled for: shape and type of every array, all else by its value."""
    if dataclasses.is_dataclass(value):
        yield name, type(value).__name__
        for field in dataclasses.fields(value):
            if field.name not in FLAX:
                yield from _described(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _described(f"{name}[{key!r}]", part)
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from _described(f"{name}[{number}]", part)
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        yield name, str(jax.typeof(value))
    elif isinstance(value, jax.tree_util.Partial):
        yield name, repr(value.func)
    else:
        yield name, repr(value)


def _nearest_changes(signature: Signature) -> tuple[str, ...]:
    if not _programs:
        return ()

    def changes(other: Signature) -> list[str]:
        names = [*signature, *(name for name in other if name not in signature)]
        return [
            f"{name}: {other.get(name, 'absent')} -> {signature.get(name, 'absent')}"
            for name in names
            if other.get(name) != signature.get(name)
        ]

    found = min((changes(program.signature) for program in _programs), key=len)
    return tuple(found) or ("the same arguments: another device, mesh or setting of JAX",)
