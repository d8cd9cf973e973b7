"""The documentation as a site: built without warnings, with every page in the navigation and every public name."""

import importlib.util
import os
import pkgutil
import re
import subprocess
import sys

import pytest
from support import docstrings
from support.code_blocks import PAGES, ROOT, code_blocks

API = [page for page in PAGES if page.parent.name == "api"]
NAV = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the packages of the extra docs")
def test_the_site_builds_without_warnings(tmp_path):
    """Broken links and unknown names are warnings, which `strict` makes errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = [
        tmp_path / "site" / name for name in ("index.html", "docs/quick_start/index.html", "docs/parity/index.html")
    ]
    assert all(page.is_file() for page in pages)
    assert "Loads a model and its parameters" in (tmp_path / "site/docs/api/loading/index.html").read_text()


def test_every_page_is_in_the_navigation():
    assert len(set(NAV)) == len(NAV)
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} <= set(NAV)
    assert all((ROOT / name).is_file() for name in NAV)


@pytest.mark.parametrize("module", docstrings.MODULES)
def test_the_reference_has_every_public_name_with_an_example(module):
    """Of a page, or of a docstring (test_docstrings.py); both run."""
    text = "".join(page.read_text(encoding="utf-8") for page in API)
    blocks = [block.code for page in API for block in code_blocks(page, "python") if block.reason is None]
    examples = [example.source for test in docstrings.examples() for example in test.examples]
    shown = {id(pkgutil.resolve_name(path)) for path in re.findall(r"^::: (\S+)", text, re.MULTILINE)}
    used = set(re.findall(rf"\b{docstrings.MODULES[module]}\.(\w+)", "".join([*blocks, *examples])))
    public = docstrings.public(module)
    assert [name for name, value in public.items() if id(value) not in shown] == [], "add ::: to a page of docs/api"
    assert set(public) - used == set(), "add an example to the docstring or to a page of docs/api"


def test_links_between_files_are_relative():
    """A code host and the site resolve them in the same way."""
    pages = [ROOT / name for name in NAV]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert not [(page, link) for page, link in links if link.startswith("/")]
    assert len(links) > 100
