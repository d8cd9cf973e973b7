"""The code blocks of README.md and docs/ run as printed, on small stand-ins for the checkpoints that they name.

The blocks of a page run from top to bottom in one namespace and in one empty folder: Python first, then the shell's. A
comment `<!-- not run: REASON -->` above a block leaves it out; its Python is compiled nevertheless, and
tests/test_package.py parses the commands of all blocks.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import hub
from support.code_blocks import PAGES, ROOT, CodeBlock, code_blocks

# Packages beside the library's own that pages show.
PACKAGES = {"flax_tools.md": "qwix", "jax_tools.md": "flatbuffers"}
SHELL = ("bash", "sh", "shell")


def with_blocks(*languages: str, run: bool = True) -> list:
    found = [page for page in PAGES if any((b.reason is None) is run for b in code_blocks(page, *languages))]
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in found]


@pytest.fixture
def folder(request, stand_ins):
    """The empty working folder of a page, whose stand-ins are written before it runs."""
    return stand_ins(request.getfixturevalue("page").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_runs(page, folder, recwarn, capsys):
    """A block of text after one of Python is a part of what that printed."""
    if page.name in PACKAGES:
        pytest.importorskip(PACKAGES[page.name])
    names: dict = {"__name__": "__main__"}
    printed = None
    for block in code_blocks(page):
        if block.language == "python" and block.reason is None:
            capsys.readouterr()
            exec(compiled(page, block), names)
            printed = flat(capsys.readouterr().out)
        elif block.language == "text" and printed is not None:
            assert flat(block.code) in printed, f"{page}:{block.line}: printed {printed}"
        else:
            printed = None


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks(*SHELL))
def test_shell_runs(page, folder, cache, tmp_path_factory):
    """The command `jaxmodels` is this tree's."""
    programs = tmp_path_factory.mktemp("bin")
    for name, arguments in {"python": "", "jaxmodels": "-m jaxmodels"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(block.code for block in code_blocks(page, *SHELL) if block.reason is None)
    done = subprocess.run(["bash", "-e"], input=script, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", with_blocks(run=False))
def test_what_is_not_run_is_valid(page):
    for block in code_blocks(page):
        if block.reason is not None:
            assert block.reason, f"{page}:{block.line}: the comment gives no reason"
            if block.language == "python":
                compiled(page, block)


def test_every_block_has_a_language():
    plain = ("text", "python", "toml", *SHELL)
    bad = [f"{page}:{b.line}" for page in PAGES for b in code_blocks(page) if b.language not in plain]
    assert not bad, f"name the language, one of {plain}, of the blocks at {bad}"


def test_every_hub_id_has_a_stand_in():
    """An id in code that runs would be downloaded if it had none."""
    text = "".join(block.code for page in PAGES for block in code_blocks(page) if block.reason is None)
    known = re.findall(r"[\"' ]((?:openai-community|facebook|allenai|google-\w+|FacebookAI|TinyLlama)/[\w.-]+)", text)
    assert set(known) <= set(hub.STAND_INS)
    assert len(set(known)) > 5


def flat(text: str) -> str:
    """The text with single spaces for line breaks and indentation."""
    return " ".join(text.split())


def compiled(page: Path, block: CodeBlock):
    tree = ast.parse(block.code, filename=str(page))
    ast.increment_lineno(tree, block.line - 1)
    return compile(tree, str(page), "exec")
