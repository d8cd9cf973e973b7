"""The wheel and the sdist: what they contain, their metadata, and that the documented commands exist in them."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml
from support.code_blocks import PAGES, code_blocks

import jaxmodels as jm
from experiments import command, evaluate
from jaxmodels.__main__ import PROGRAM, make_parser
from jaxmodels.commands import COMMANDS
from jaxmodels.commands.run import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INFO = f"jaxmodels-{jm.__version__}.dist-info"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel, its content in `wheel`, and the sdist; built in this process, which needs no network."""
    pytest.importorskip("hatchling", reason="builds the package")
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("dist")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    list(SdistBuilder(str(ROOT)).build(directory=str(folder)))
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    return folder


@pytest.fixture(scope="module")
def metadata(built) -> Message:
    return message_from_bytes((built / "wheel" / INFO / "METADATA").read_bytes())


def python_files(folder: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}


def test_the_wheel_has_every_module_in_its_place_and_nothing_else(built):
    moved = {f"jaxmodels/{path}" for path in python_files("experiments")}
    expected = python_files("jaxmodels") - {"jaxmodels/experiments.py"} | python_files("pallas_kernels") | moved
    expected |= {"jaxmodels/py.typed", "pallas_kernels/py.typed", "jaxmodels/experiments/results.toml"}
    files = {path.relative_to(built / "wheel").as_posix() for path in (built / "wheel").rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(INFO)} == expected
    assert f"{INFO}/licenses/LICENSE" in files


def test_the_sdist_has_the_tests_and_their_data(built):
    with tarfile.open(built / f"jaxmodels-{jm.__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {name for folder in ("jaxmodels", "experiments", "tests", "benchmarks") for name in python_files(folder)}
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/testdata").rglob("*") if path.is_file()}
    assert expected | data <= names
    assert {"pyproject.toml", "Makefile", "CHANGELOG.md", "CITATION.cff", "docs/parity.md"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "dist", ".git/"))]


def test_metadata_are_complete(metadata):
    assert metadata["Name"] == "jaxmodels" and metadata["Version"] == jm.__version__
    assert metadata["Summary"] and metadata["Author-email"] and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata.get_payload().strip() == README.strip()
    urls = {entry.partition(",")[0] for entry in metadata.get_all("Project-URL")}
    assert urls == {"Repository", "Documentation", "Changelog", "Issues"}
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_classifiers_name_the_supported_versions_of_python(metadata):
    classifiers = metadata.get_all("Classifier")
    minors = [int(text.rpartition(".")[2]) for text in classifiers if re.fullmatch(r".* :: Python :: 3\.\d+", text)]
    assert minors == [*range(11, max(minors) + 1)] and metadata["Requires-Python"] == ">=3.11"
    assert f"Python 3.11 to 3.{max(minors)}" in README
    assert {"Typing :: Typed", "Programming Language :: Python :: 3 :: Only"} <= set(classifiers)


def test_the_entry_point_is_a_function():
    ((name, target),) = PROJECT["scripts"].items()
    module, _, function = target.partition(":")
    assert name == PROGRAM and callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_the_installed_experiments_are_those_of_the_wheel(built):
    """In a process of its own, since this one imports the checkout."""
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += "    print(importlib.import_module(f'jaxmodels.experiments.{name}').__file__)"
    environment = {**os.environ, "PYTHONPATH": str(built / "wheel"), "PYTHONSAFEPATH": "1"}
    names = [*EXPERIMENTS, *(f"configs.{path.stem}" for path in (ROOT / "experiments/configs").glob("[!_]*.py"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=built, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    folder = built / "wheel" / "jaxmodels" / "experiments"
    assert done.stdout.splitlines() == [str(folder / f"{name.replace('.', '/')}.py") for name in names]


def test_the_command_lists_every_experiment():
    launching = {
        path.stem for path in (ROOT / "experiments").glob("*.py") if "partial(command.launch" in path.read_text()
    }
    assert set(EXPERIMENTS) == launching


def documented_commands() -> list[str]:
    """The commands of the documents' shell blocks, and of the header of each experiment without what is in
    parentheses."""
    blocks = "\n".join(block.code for page in PAGES for block in code_blocks(page, "bash"))
    headers = "\n".join(
        re.sub(r" *\([^)]*\)?", "", ast.get_docstring(ast.parse((ROOT / f"experiments/{name}.py").read_text())))
        for name in EXPERIMENTS
    )
    lines = re.sub(r"\\\n\s*", "", f"{blocks}\n{headers}").splitlines()
    return sorted({line[line.index("jaxmodels ") :] for line in lines if re.search(r"(^|\s)jaxmodels [a-z]", line)})


@pytest.mark.parametrize("line", documented_commands())
def test_a_documented_command_is_valid(line):
    """Options, names of configs, and keys of configs."""
    given = make_parser().parse_args(shlex.split(line.partition(";")[0], comments=True)[1:])
    if given.command == "run":
        experiment = importlib.import_module(f"experiments.{given.experiment}")
        run, _, default, _ = experiment.main.args
        command.parse(given.options, run, default)
    if given.command == "evaluate":
        evaluate.parse(given.task, given.options)


def test_commands_are_found_in_documents_and_headers():
    found = {words[1] for words in map(str.split, documented_commands())}
    assert found == {*COMMANDS}
    assert {words[2] for words in map(str.split, documented_commands()) if words[1] == "run"} == {*EXPERIMENTS}


def test_no_document_starts_modules_that_a_wheel_lacks():
    """The benchmarks' page has commands for a clone."""
    pages = [page for page in PAGES if page.name != "benchmarks.md"]
    started = set(re.findall(r"python -m (\w+)", "".join(page.read_text() for page in pages)))
    assert started <= {"jaxmodels", "venv"}


def test_citation_and_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jm.__version__ and citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


def test_pre_commit_runs_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert [hook["entry"] for hook in hooks] == [
        line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()
    ]
