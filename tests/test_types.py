"""What a type checker says of programs that use the library (mypy; pyright agreed when these were written)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import docstrings
from support.code_blocks import PAGES, ROOT, code_blocks

PROGRAM = """
import jax
import jax.numpy as jnp
import jaxmodels as jm

model = jm.GPT2LMHeadModel(jm.GPT2Config(n_layer=2))
params = jm.init(model, jax.random.key(0))
ids = jnp.ones((1, 4), jnp.int32)
"""


def check(programs: dict[str, str], folder: Path) -> str:
    """mypy's report on programs by name. Names may be given values of other types, as in a notebook."""
    files = [folder / f"{re.sub('[/.]', '_', name)}.py" for name in programs]
    for file, program in zip(files, programs.values(), strict=True):
        file.write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--allow-redefinition", "--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True).stdout


def python_of(page: Path) -> str:
    """The blocks of a page at their lines; what is in `message(...)` is wrong on purpose."""
    lines: list[str] = []
    for block in code_blocks(page, "python"):
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(line + "  # type: ignore" * line.startswith("message(") for line in lines)


def test_every_example_of_the_documentation_is_clean(tmp_path):
    (imports,) = code_blocks(ROOT / "docs/api/index.md", "python")
    programs = {page.relative_to(ROOT).as_posix(): python_of(page) for page in PAGES}
    for test in docstrings.examples():
        programs[test.name] = imports.code + "".join(example.source for example in test.examples)
    report = check(programs, tmp_path)
    assert "Success: no issues found" in report, report


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('reveal_type(model.apply({"params": params}, ids).logits)', 'Revealed type is "jax._src.basearray.Array"'),
        ("reveal_type(jm.generate(model, params, ids).sequences)", 'Revealed type is "jax._src.basearray.Array"'),
        ("jm.generate(model, params, ids, max_new_tokenz=3)", 'Unexpected keyword argument "max_new_tokenz"'),
        ("model(ids, label=ids)", 'Unexpected keyword argument "label"'),
    ],
)
def test_what_an_editor_shows(line, expected, tmp_path):
    assert expected in check({"program": PROGRAM + line}, tmp_path)
