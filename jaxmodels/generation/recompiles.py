"""Which calls of `generate` compiled something, and what in them was new."""

import collections
import dataclasses
from typing import Any

import jax

from jaxmodels.generation import loop

Signature = dict[str, str]

KEPT = 1000
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


def compiled() -> int:
    """Decoding loops that have been compiled in this process."""
    programs: tuple[Any, ...] = (loop.start, loop.go_on)
    return sum(program._cache_size() for program in programs)


def note(arguments: dict[str, Any], static: dict[str, Any]) -> None:
    """Records that these arguments compiled a program."""
    signature = {name: repr(value) for name, value in static.items()}
    for name, tree in arguments.items():
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        signature[f"{name}, its parts"] = _parts(tree, structure)
        for path, leaf in leaves:
            signature[name + jax.tree_util.keystr(path)] = str(jax.typeof(leaf))
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


def _parts(tree: Any, structure: Any) -> str:
    """The structure in a line; of a model's parameters only a hash would be readable."""
    text = str(structure)
    return text if len(text) < 2000 else f"{structure.num_leaves} arrays, structure {hash(text) & 0xFFFFFF:06x}"


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
