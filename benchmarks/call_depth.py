"""Count the files and functions of this repository that are entered while JAX traces common calls.

    python -m benchmarks.call_depth [--list]

The number of files and functions that a reader has to go through to follow a call is a measure of how readable the code
is. Three calls are traced with empty JAX caches, on a GPT-2 with two layers: a training step, a forward pass and a
greedy `generate`. Nested functions and lambdas count as functions of their own; comprehensions, class bodies and code
that runs because a module is imported do not count.
"""

import argparse
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxmodels as jm
import pallas_kernels
from jaxmodels.training import init_state, make_step

FOLDERS = tuple(Path(package.__path__[0]).resolve() for package in (jm, pallas_kernels))
# The goals of the restructuring: the largest number of files and functions.
GOALS = {"training step": (14, 55), "generate": (24, 110)}
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


@dataclass
class CallCounts:
    """How often each function of some folders was called.

    Attributes:
      counts: (file, code object) -> number of calls.
    """

    counts: Counter[tuple[str, CodeType]] = field(default_factory=Counter)

    @property
    def files(self) -> dict[str, list[str]]:
        """Qualified names of the functions entered, by file, each list in the order of the file."""
        found = defaultdict(list)
        for file, code in sorted(self.counts, key=lambda entry: (entry[0], entry[1].co_firstlineno)):
            found[file].append(code.co_qualname)
        return dict(found)

    @property
    def functions(self) -> int:
        """Number of distinct functions."""
        return len(self.counts)

    @property
    def calls(self) -> int:
        """Number of calls of all functions together."""
        return self.counts.total()


def count_calls(function: Callable[[], Any], folders: Sequence[Path] = FOLDERS) -> CallCounts:
    """Call `function` and count the calls of functions that are defined in files below `folders`.

    Only the current thread is observed.

    Args:
      function: called once, without arguments.
      folders: absolute paths of the folders to observe.
    """
    roots, found, imports = tuple(f"{folder}/" for folder in folders), CallCounts(), 0

    def observe(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal imports
        code = frame.f_code
        if code.co_name == "<module>":
            imports += {"call": 1, "return": -1}.get(event, 0)
        elif (
            event == "call"
            and not imports
            and code.co_filename.startswith(roots)
            and code.co_flags & inspect.CO_OPTIMIZED  # class bodies are not
            and code.co_name not in _COMPREHENSIONS
        ):
            found.counts[code.co_filename, code] += 1

    before = sys.getprofile()
    sys.setprofile(observe)
    try:
        function()
    finally:
        sys.setprofile(before)
    return found


def traced_calls() -> dict[str, Callable[[], Any]]:
    """The measured calls by name, ready to run: models, parameters and inputs exist already."""
    config = jm.GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    model = jm.GPT2LMHeadModel(config)
    params = jm.init(model, jax.random.key(0))
    ids = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
    optimizer = optax.adamw(1e-3)
    step = make_step(model, optimizer)
    state = init_state(optimizer, jax.tree.map(jnp.copy, params))
    forward = jax.jit(lambda params, ids: model.apply({"params": params}, ids))
    return {
        "training step": lambda: step(state, {"input_ids": ids, "labels": ids}, jax.random.key(1)),
        "forward pass": lambda: forward(params, ids),
        "generate": lambda: jm.generate(model, params, ids, max_new_tokens=8, pad_token_id=0, eos_token_id=None),
    }


def table(results: dict[str, CallCounts]) -> str:
    """One line per call: files, functions and calls, with the goals in parentheses where there are any."""
    lines = [f"{'':15}{'files':>16}{'functions':>16}{'calls':>8}"]
    for name, result in results.items():
        numbers = (len(result.files), result.functions)
        goals = GOALS.get(name, (None, None))
        cells = (f"{n} (goal {g})" if g else f"{n}" for n, g in zip(numbers, goals, strict=True))
        lines.append(f"{name:15}" + "".join(f"{cell:>16}" for cell in cells) + f"{result.calls:8,}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and with --list the files and functions of each call."""
    parser = argparse.ArgumentParser("python -m benchmarks.call_depth", description="count files and functions entered")
    parser.add_argument("--list", action="store_true", help="list the files and functions of each call")
    listed = parser.parse_args(arguments).list
    results = {}
    for name, call in traced_calls().items():
        jax.clear_caches()
        results[name] = count_calls(call)
    print(table(results))
    if listed:
        for name, result in results.items():
            print(f"\n{name}")
            for file, functions in result.files.items():
                print(f"  {Path(file).relative_to(FOLDERS[0].parent)}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
