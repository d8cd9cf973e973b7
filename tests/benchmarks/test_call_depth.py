"""Counting the files and functions that a call enters."""

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks.call_depth import CallCounts, count_calls, table

OUTER = """
import {inner}

def outer():
    class Local:
        size = 2

    def nested(x):
        return x + 1

    double = lambda x: 2 * x
    values = [nested(i) for i in range(3)]
    return sum(double(value) for value in values) + {inner}.helper() + Local.size

def unused():
    return 0
"""
INNER = """
def at_import():
    return 3

CONSTANT = at_import()

def helper():
    return CONSTANT
"""


@pytest.fixture
def outer(tmp_path, monkeypatch):
    """A function in one file that calls a function in another."""
    monkeypatch.syspath_prepend(tmp_path)
    inner = "call_depth_inner"
    monkeypatch.delitem(sys.modules, inner, raising=False)  # of an earlier test
    (tmp_path / f"{inner}.py").write_text(INNER)
    file = tmp_path / "call_depth_outer.py"
    file.write_text(OUTER.format(inner=inner))
    spec = importlib.util.spec_from_file_location("call_depth_outer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.outer


def test_functions_and_calls_are_counted_by_file(outer, tmp_path):
    result = count_calls(outer, [tmp_path])

    functions = {Path(file).stem: names for file, names in result.files.items()}
    nested, double = "outer.<locals>.nested", "outer.<locals>.<lambda>"
    assert functions == {"call_depth_outer": ["outer", nested, double], "call_depth_inner": ["helper"]}
    assert result.functions == 4
    assert result.calls == 1 + 3 + 3 + 1


def test_functions_of_other_folders_are_not_counted(outer, tmp_path):
    assert count_calls(outer, [tmp_path / "elsewhere"]) == CallCounts()


def test_functions_called_by_an_import_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "call_depth_lazy.py").write_text(INNER)

    assert count_calls(lambda: importlib.import_module("call_depth_lazy"), [tmp_path]).functions == 0


def test_profile_function_is_restored_after_an_error(tmp_path):
    before = sys.getprofile()
    with pytest.raises(ZeroDivisionError):
        count_calls(lambda: 1 / 0, [tmp_path])
    assert sys.getprofile() is before


def test_table_shows_counts_and_goals(outer, tmp_path):
    result = count_calls(outer, [tmp_path])

    lines = table({"generate": result, "forward pass": result}).splitlines()
    assert lines[1].split() == ["generate", "2", "(goal", "24)", "4", "(goal", "110)", "8"]
    assert lines[2].split() == ["forward", "pass", "2", "4", "8"]
