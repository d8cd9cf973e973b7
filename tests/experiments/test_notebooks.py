"""The notebooks run from top to bottom and contain no outputs."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import generation_samples as samples

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "experiments/notebooks").glob("*.ipynb"))
# Runs every cell in one namespace, like a kernel, and then checks the results.
DRIVER = """
import json, sys
names = {}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        print()
import jax, numpy as np
same = np.abs(np.concatenate(names["steps"], axis=1) - names["whole"]).max()
assert same < 1e-4, same
assert len(names["shown"]) == 24 and names["shown"] == names["result"].sequences[0, -24:].tolist()
np.testing.assert_allclose(names["weights"].sum(axis=-1), 1, atol=1e-5)
assert names["losses"][0] > np.mean(names["losses"][-5:]) + 1
assert len(jax.devices()) == 8 == names["kernel"].sharding.num_devices
assert names["kernel"].addressable_shards[0].data.size * 8 == names["kernel"].size
np.testing.assert_allclose(names["logits"][0], names["whole"][0], atol=1e-4)
print("all is well")
"""


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_cells_are_python_without_outputs(notebook):
    assert json.loads(notebook.read_text(encoding="utf-8"))["nbformat"] == 4
    names = [cell["id"] for cell in cells(notebook)]
    assert len(set(names)) == len(names)
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
            ast.parse("".join(cell["source"]), cell["id"])


@pytest.mark.slow
@pytest.mark.long
def test_first_steps_notebook_runs(tmp_path):
    """Use a local checkpoint, since the Hub may be unreachable."""
    checkpoint = samples.gpt2(tmp_path / "checkpoint")
    environment = {**os.environ, "CHECKPOINT": str(checkpoint), "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(ROOT)
    del environment["XLA_FLAGS"]  # the notebook sets its own
    command = [sys.executable, "-c", DRIVER, str(ROOT / "experiments/notebooks/first_steps.ipynb")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all is well\n") and (tmp_path / "small-gpt2/model.safetensors").is_file()
