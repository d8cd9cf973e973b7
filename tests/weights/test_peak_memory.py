"""Peak memory of loading is the parameters and one tensor, not twice the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import abstract

TESTS = Path(__file__).resolve().parents[1]
LARGE = {"vocab_size": 12_000, "n_positions": 64, "n_embd": 768, "n_layer": 6, "n_head": 12}  # about 207 MB


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process is read from Linux's /proc")
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    jm.save(small, *tiny())
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**LARGE))
    jm.save(
        large, model, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract(model)), max_shard_size="50MB"
    )
    return small, large


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}], ids=["as-stored", "cast"])
@pytest.mark.parity("C16")
def test_peak_memory_of_loading(options, folders):
    result = subprocess.run(
        [sys.executable, TESTS / "support" / "peak_memory.py", *folders, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["parameters"] > (190e6 if not options else 95e6)
    assert seen["over"] <= seen["parameters"] + 1.2 * seen["largest"], seen
    assert seen["over"] > 0.9 * seen["parameters"], seen
