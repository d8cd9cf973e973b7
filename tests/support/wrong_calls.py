"""Random calls with an invalid keyword argument, and whether a `raise` of this library rejects them."""

import ast
import functools
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OWN = ("jaxmodels", "pallas_kernels")
# Arguments of other libraries. If one is also an option here, it is passed with a value that no option accepts.
FOREIGN: tuple[str, ...] = ("device", "return_tensors", "torch_dtype", "use_cache", "past_key_values", "train")
FOREIGN += ("deterministic", "dropout_rng", "attn_implementation", "trust_remote_code", "seed", "input_shape")
FOREIGN += ("params", "mask", "safe_serialization", "low_cpu_mem_usage", "device_map", "load_in_8bit", "is_causal")
# Values that no argument accepts.
INVALID_VALUES: tuple[Any, ...] = (
    object(),
    {1: object()},
    b"bytes",
    [object()],
    print,
    complex(1, 2),
    {object()},
    Ellipsis,
)


class PublicCall(NamedTuple):
    """A public function with valid arguments.

    Attributes:
      name: Its name.
      call: The function.
      valid: Arguments that work.
      names: Its keyword arguments.
      foreign: Names of other libraries that it rejects with a specific message.
    """

    name: str
    call: Callable[..., Any]
    valid: Mapping[str, Any]
    names: tuple[str, ...]
    foreign: tuple[str, ...] = ()


class InvalidCall(NamedTuple):
    """A public function and an invalid keyword argument."""

    public_call: PublicCall
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.public_call.name}({self.name}={self.value!r:.40})"

    def outcome(self) -> str:
        """Make the call; return "" if it was rejected, else a description of what happened."""
        try:
            self.public_call.call(**{**self.public_call.valid, self.name: self.value})
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            path = Path(frame.filename)
            own_code = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OWN
            if own_code and _is_raise(path, frame.lineno or 0):
                return ""
            return f"{type(error).__name__}: {error!s:.200} (in {path.name}:{frame.lineno})"
        return "silent"


def invalid_calls(public_calls: list[PublicCall], seed: int = 0) -> Iterator[InvalidCall]:
    """Yield invalid calls endlessly: a misspelt or foreign name, or a valid name with an invalid value."""
    rng = np.random.default_rng(seed)
    while True:
        public_call = public_calls[rng.integers(len(public_calls))]
        kind = rng.integers(3)
        names = public_call.foreign + FOREIGN if kind == 2 else public_call.names
        name, value = names[rng.integers(len(names))], INVALID_VALUES[rng.integers(len(INVALID_VALUES))]
        if kind == 0:
            name = misspelt(name, rng)
            if name in public_call.names or name in public_call.foreign:
                continue
        yield InvalidCall(public_call, name, value)


def misspelt(name: str, rng: np.random.Generator) -> str:
    """Drop or double a letter, or swap it with the next one."""
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
