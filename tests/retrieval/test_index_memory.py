"""Building or loading an index takes the memory of a single copy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.index_memory import ROWS, WIDTH

from jaxmodels.retrieval.building import CHUNK_BYTES

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mode", ["known", "unknown", "load"])
def test_peak_memory_is_one_copy_and_a_few_chunks(mode, tmp_path):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    environment["XLA_FLAGS"] = ""  # one device
    result = subprocess.run(
        [sys.executable, TESTS / "support" / "index_memory.py", mode, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    peak, size = int(result.stdout.splitlines()[-1]), 4 * ROWS * WIDTH
    assert 0.9 * size < peak < size + 8 * CHUNK_BYTES, f"{peak / size:.2f} of the index"
