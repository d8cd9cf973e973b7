"""A killed save leaves the old checkpoint or the new one, complete (docs/parity.md, C16)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SCENARIOS = ["whole", "same-number-of-shards", "other-vocabulary", "shards-over-whole", "whole-over-shards"]


def killed_saves(folder, scenario, random_kills):
    result = subprocess.run(
        [sys.executable, TESTS / "support" / "killed_saves.py", folder / "model", scenario, str(random_kills)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def check(report):
    versions = report["by_operation"]
    assert len(versions) > 10, "too few operations: does the audit hook still see them?"
    assert {*versions, *report["at_random"]} <= {"old", "new"}, report
    # Old up to some operation, new from it on.
    assert versions == sorted(versions, reverse=True) and versions[0] == "old" and versions[-1] == "new"
    assert report["leftovers"] == []


@pytest.mark.parity("C16")
def test_save_of_shards_killed_at_every_operation(tmp_path):
    check(killed_saves(tmp_path, "same-number-of-shards", 3))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parity("C16")
def test_save_killed_at_every_operation_and_at_many_random_times(scenario, tmp_path):
    check(killed_saves(tmp_path, scenario, 40))
