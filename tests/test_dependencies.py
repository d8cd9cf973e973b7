"""All imported packages are declared in pyproject.toml."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from test_imports import imports, modules

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Extras that each folder may use.
FOLDERS = {
    "jaxmodels": ["chat", "t5", "retrieval", "faiss", "lm-eval"],
    "pallas_kernels": [],
    "experiments": ["experiments", "chat", "onnx", "retrieval", "datasets"],
    "tests": ["test"],
    "benchmarks": ["test", "bench"],
}


def normal(name: str) -> str:
    """Return the normalised name of a requirement (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", name)[0]).lower()


def declared(extras: list[str]) -> set[str]:
    """Return the direct dependencies of the project with these extras."""
    wanted, names = [*PROJECT["dependencies"]], set()
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    for requirement in wanted:
        if own := re.match(r"jaxmodels\[(.*)\]", requirement):
            names |= declared(own[1].split(","))
        else:
            names.add(normal(requirement))
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_declared(folder):
    own = {path.stem for path in modules("tests")} | {path.name for path in (ROOT / "tests").iterdir()}
    own |= {*FOLDERS, *sys.stdlib_module_names}
    packages, allowed = packages_distributions(), declared(FOLDERS[folder])
    for path in modules(folder):
        where = path.relative_to(ROOT).parts[:-1]
        for top in sorted({name.split(".")[0] for name in imports(path.read_text(), where)} - own):
            providers = {normal(name) for name in packages.get(top, [top])}
            assert providers & allowed, f"{path} imports {top}, which {folder}'s dependencies do not name"
