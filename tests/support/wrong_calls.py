"""Calls with a wrong keyword, made up at random, and whether they were refused by a `raise` of this library."""

import ast
import functools
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OWN = ("jaxmodels", "pallas_kernels")
# Of other libraries' calls; where one of them is an option of a door too, it comes with a value that no option takes.
FOREIGN: tuple[str, ...] = ("device", "return_tensors", "torch_dtype", "use_cache", "past_key_values", "train")
FOREIGN += ("deterministic", "dropout_rng", "attn_implementation", "trust_remote_code", "seed", "input_shape")
FOREIGN += ("params", "mask", "safe_serialization", "low_cpu_mem_usage", "device_map", "load_in_8bit", "is_causal")
# What nothing takes.
WRONG: tuple[Any, ...] = (object(), {1: object()}, b"bytes", [object()], print, complex(1, 2), {object()}, Ellipsis)


class Door(NamedTuple):
    """A public function with the arguments that it works with.

    names: its keywords. foreign: names that it refuses in words of its own.
    """

    name: str
    call: Callable[..., Any]
    good: Mapping[str, Any]
    names: tuple[str, ...]
    foreign: tuple[str, ...] = ()


class Wrong(NamedTuple):
    door: Door
    name: str
    value: Any

    def __str__(self):
        return f"{self.door.name}({self.name}={self.value!r:.40})"

    def outcome(self) -> str:
        """ "" where the call was refused; else what came instead."""
        try:
            self.door.call(**{**self.door.good, self.name: self.value})
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            path = Path(frame.filename)
            ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OWN
            if ours and _is_raise(path, frame.lineno or 0):
                return ""
            return f"{type(error).__name__}: {error!s:.200} (in {path.name}:{frame.lineno})"
        return "silent"


def wrong_calls(doors: list[Door], seed: int = 0) -> Iterator[Wrong]:
    """Without end: a misspelt name, a name of another library, or a name of its own with a value that nothing takes."""
    rng = np.random.default_rng(seed)
    while True:
        door = doors[rng.integers(len(doors))]
        kind = rng.integers(3)
        names = door.foreign + FOREIGN if kind == 2 else door.names
        name, value = names[rng.integers(len(names))], WRONG[rng.integers(len(WRONG))]
        if kind == 0:
            name = misspelt(name, rng)
            if name in door.names or name in door.foreign:
                continue
        yield Wrong(door, name, value)


def misspelt(name: str, rng: np.random.Generator) -> str:
    """One letter is left out, doubled or exchanged with the next one."""
    at = rng.integers(len(name) - 1) if len(name) > 1 else 0
    return (
        name[:at] + name[at + 1 :] or "x",
        name[:at] + name[at] + name[at:],
        name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
    )[rng.integers(3)]


@functools.cache
def _raises(path: Path) -> frozenset[int]:
    tree = ast.parse(path.read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return frozenset(line for node in found for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _is_raise(path: Path, line: int) -> bool:
    return line in _raises(path)
