"""The public names of the library, and the examples in their docstrings."""

import doctest
import importlib
from types import ModuleType
from typing import Any

from jaxmodels.training.checkpoints import Checkpoints

# The modules of the API reference, and their names in its examples.
MODULES = {
    "jaxmodels": "jm",
    "jaxmodels.training": "training",
    "jaxmodels.sharding": "sharding",
    "jaxmodels.estimate": "estimate",
    "pallas_kernels": "pallas_kernels",
}


def public(module: str) -> dict[str, Any]:
    """The public names of a module and their values; modules among them have their own."""
    loaded = importlib.import_module(module)
    values = {name: getattr(loaded, name) for name in loaded.__all__}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


def examples() -> list[doctest.DocTest]:
    """The docstrings with examples, each once."""
    named = {f"{module}.{name}": value for module in MODULES for name, value in public(module).items()}
    named["jaxmodels.training.checkpoints.Checkpoints"] = Checkpoints
    once = {id(value): (name, value) for name, value in named.items() if callable(value)}
    finder = doctest.DocTestFinder(recurse=False)
    return [test for name, value in once.values() for test in finder.find(value, name) if test.examples]
