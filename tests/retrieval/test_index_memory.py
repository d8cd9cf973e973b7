"""An index is held once while it is built, and while it is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.index_memory import ROWS, WIDTH

from jaxmodels.retrieval.filling import PIECE_BYTES

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("way", ["known", "unknown", "load"])
def test_the_peak_is_one_copy_and_a_few_pieces(way, tmp_path):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process is read from Linux's /proc")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    environment["XLA_FLAGS"] = ""  # one device
    result = subprocess.run(
        [sys.executable, TESTS / "support" / "index_memory.py", way, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    over, size = int(result.stdout.splitlines()[-1]), 4 * ROWS * WIDTH
    assert 0.9 * size < over < size + 8 * PIECE_BYTES, f"{over / size:.2f} of the index"
