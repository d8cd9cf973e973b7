"""The library never executes code from files (docs/threat_model.md)."""

import ast
from pathlib import Path

import pytest
from test_imports import imports, modules

ROOT = Path(__file__).resolve().parents[1]
RUNS_CODE = {
    "cloudpickle",
    "code",
    "dill",
    "imp",
    "importlib",
    "joblib",
    "marshal",
    "pickle",
    "runpy",
    "shelve",
    "yaml",
}
RUNS_CODE |= {"subprocess", "torch", "pickletools", "ctypes"}
# Allowed: for the names of opcodes, to find an installed package or a driver, and to import one of a list of modules.
ALLOWED = {
    "jaxmodels/tensor_files/unpickler.py": {"pickle", "pickletools"},
    "jaxmodels/retrieval/array_pickle.py": {"pickle"},
    "jaxmodels/commands/estimate.py": {"importlib"},
    "jaxmodels/commands/run.py": {"importlib", "importlib.import_module"},
    "pallas_kernels/gpu/device.py": {"ctypes", "importlib"},
}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "load_module", "import_module", "run_path"}
# Functions with these names that do not execute Python code.
HARMLESS = {"re.compile"}


def called(tree: ast.AST) -> set[str]:
    """Return the names of called functions; for an attribute, the last name with and without its object."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= set() if name in HARMLESS else {name.rsplit(".", 1)[-1] if "." not in name else name}
    return found


def suspicious(source: str, path: str) -> list[str]:
    """Return the calls and imports in a source that could execute content of a file."""
    tree = ast.parse(source)
    wrong = {name.split(".")[0] for name in imports(source, ())} & RUNS_CODE
    for name in called(tree):
        head, _, last = name.rpartition(".")
        # .compile() of a lowered JAX program takes no source
        if last in CALLS and not (last == "compile" and head) or name in ("pickle.load", "pickle.loads", "np.load"):
            wrong.add(name)
    wrong |= {word.arg for word in ast.walk(tree) if isinstance(word, ast.keyword) and word.arg == "allow_pickle"}
    return sorted(wrong - ALLOWED.get(path, set()))


def test_no_file_becomes_code():
    found = {}
    for path in modules("jaxmodels", "pallas_kernels"):
        where = path.relative_to(ROOT).as_posix()
        if wrong := suspicious(path.read_text(), where):
            found[where] = wrong
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "eval('1')",
        "import os; os.system('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "import importlib; importlib.import_module(name)",
        "def f():\n    import subprocess",
        "exec(text)",
        "compile(text, 'x', 'exec')",
    ],
)
def test_what_runs_code_is_seen(source):
    assert suspicious(source, "jaxmodels/x.py")


def test_what_does_not_is_left_alone():
    assert suspicious("import re; re.compile('x'); program.lower().compile()", "jaxmodels/x.py") == []
