"""JAXMODELS_TEST_DATA: the tests that it enables, and errors for invalid values."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import full_data

ROOT = Path(__file__).resolve().parents[1]


def collected(given: str) -> subprocess.CompletedProcess:
    """Names of tests, some of which are marked full_data."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_testdata.py",
    ]
    environment = {**os.environ, full_data.VARIABLE: given}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_it_marked_tests_are_left_out_and_not_skipped():
    ran = collected("")
    assert ran.returncode == 0 and "1 deselected" in ran.stdout and "skipped" not in ran.stdout
    assert "test_it_is_small" in ran.stdout and "test_the_scripts_make_what_is_here" not in ran.stdout
    assert "full data: none, so tests marked full_data are not collected; JAXMODELS_TEST_DATA=FOLDER" in ran.stdout


def test_a_wrong_folder_is_one_error(tmp_path):
    ran = collected(str(tmp_path))
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR and ran.stdout.strip() == ""
    (line,) = ran.stderr.strip().splitlines()
    assert line.startswith(f"ERROR: JAXMODELS_TEST_DATA={tmp_path}: expected a folder with the complete files")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "absent",
            r"absent: expected .* listed in tests/testdata/README.md, but it is not a folder; set another",
        ),
        (str(full_data.TESTDATA), "but it lacks 3 of its .* files, such as checkpoints/fake_gpt2/model.safetensors"),
    ],
)
def test_what_is_wrong_is_named(given, message, monkeypatch):
    monkeypatch.setenv(full_data.VARIABLE, given)
    with pytest.raises(ValueError, match=message):
        full_data.folder.__wrapped__()


def test_a_package_that_is_not_installed_leaves_a_test_out():
    assert full_data.here(None) and full_data.here(pytest.mark.full_data(package="pytest").mark)
    assert not full_data.here(pytest.mark.full_data(package="no_such_package").mark)
