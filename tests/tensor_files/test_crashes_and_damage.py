"""Writers killed at every operation, readers concurrent with a writer, and thousands of damaged files of every type.

`JAXMODELS_SEED` selects the random damage.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.mutated_files import FILE_TYPES
from support.racing_writers import READERS
from support.writers import WRITERS

TESTS = Path(__file__).resolve().parents[1]
SEED = os.environ.get("JAXMODELS_SEED", "1")
FILES_PER_TYPE = 200
BAD_OUTCOMES = {"executed", "escaped", "crashed", "hung", "memory", "wrong"}


def run(program: str, *arguments) -> dict:
    result = subprocess.run(
        [sys.executable, TESTS / "support" / f"{program}.py", *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parity("C16")
def test_a_killed_writer_leaves_the_old_or_the_new_files(name, tmp_path):
    report = run("killed_writers", tmp_path / "folder", name)
    found = report["found"]
    assert set(found) == {1, 2} and found == sorted(found), found
    minimum = 5 if WRITERS[name].device else 12
    assert len(found) > minimum, "too few operations: does the audit hook still see them?"
    assert report["moved"] == [] and report["left"] == []


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parity("C16")
def test_a_concurrent_reader_sees_one_version(name, tmp_path):
    reads = 120
    report = run("racing_writers", tmp_path / "folder", name, reads)
    assert report["raised"] == {}
    assert report["found"] + report["refused"] == reads and report["versions"] > 2
    assert not report["refused"] or name == "index, then passages"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of processes")
def test_damaged_files_are_harmless(tmp_path):
    report = run("mutated_files", tmp_path / "files", FILES_PER_TYPE, SEED)
    assert report["outcomes"].keys() == FILE_TYPES.keys()
    total = sum(map(Counter, report["outcomes"].values()), Counter())
    assert total.total() == FILES_PER_TYPE * len(FILE_TYPES) > 1000
    assert not BAD_OUTCOMES & total.keys(), report["examples"]
    assert total["unclear"] <= total.total() // 200, report["examples"]
    assert total["clear"] > total.total() // 2
