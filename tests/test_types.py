"""What a type checker says of programs that use the library (mypy; pyright agreed when these were written)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import jax
import jax.numpy as jnp
import jaxmodels as jm

model = jm.GPT2LMHeadModel(jm.GPT2Config(n_layer=2))
params = jm.init(model, jax.random.key(0))
ids = jnp.ones((1, 4), jnp.int32)
"""


def check(program: str, folder: Path) -> str:
    """mypy's report on a program."""
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_the_readme_s_first_program_is_clean(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "jaxmodels as jm" in block)
    program = "\n".join(line for line in first.splitlines() if not line.startswith("!"))
    assert "Success: no issues found" in check(program, tmp_path)


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
    assert expected in check(PROGRAM + line, tmp_path)
