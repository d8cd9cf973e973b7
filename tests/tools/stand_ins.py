"""A pytest plugin to run tests where the libraries that they compare with are not installed.

A package that a file of tests/ imports, itself or by way of another package, and that is not there is a stand-in for
that file alone: the test that uses it is skipped, and so is the whole file where it is used while the file is imported.
So nobody keeps a list of the tests that need no torch. What the library itself imports has to be there.
"""

import builtins
import types
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
NEVER = {"jaxmodels", "pallas_kernels"} | {path.stem for path in TESTS.iterdir()}
IMPORT = builtins.__import__


class StandIn(types.ModuleType):
    def __init__(self, name: str, lacks: str):
        super().__init__(name)
        self.__lacks__ = lacks

    def __getattr__(self, name: str):
        if name.startswith("__"):  # asked for by Python and by pytest
            raise AttributeError(name)
        pytest.skip(f"{self.__lacks__} is not installed", allow_module_level=True)


def import_or_stand_in(name, globals=None, locals=None, fromlist=(), level=0):
    """Replacement for `builtins.__import__`."""
    try:
        return IMPORT(name, globals, locals, fromlist, level)
    except ModuleNotFoundError as error:
        by_a_test = Path((globals or {}).get("__file__") or "/").is_relative_to(TESTS)
        if not by_a_test or error.name is None or NEVER & {name.split(".")[0], error.name.split(".")[0]}:
            raise
        return StandIn(name, lacks=error.name.split(".")[0])


builtins.__import__ = import_or_stand_in  # now, since conftest.py files are imported before any hook is called
