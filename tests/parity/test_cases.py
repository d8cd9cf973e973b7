"""The ready-made cases of ../shared/cases, through the public API only."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from support import adapter

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"

NAMES = [file.parent.name for file in sorted(CASES.glob("*/case.json"))]


@pytest.fixture(scope="module")
def differences(cases_dir):
    """The comparison that comes with the cases."""
    spec = importlib.util.spec_from_file_location("check_cases", cases_dir / "check_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.differences


@pytest.mark.parametrize("name", NAMES)
def test_case_gives_the_outputs_of_the_reference(name, cases_dir, differences):
    case = json.loads((cases_dir / name / "case.json").read_text())
    reference = dict(np.load(cases_dir / name / "outputs.npz"))
    assert differences(reference, adapter.run(cases_dir / name, case), atol=2e-5) == []
