"""The ready-made cases of tests/testdata/cases, through the public API only."""

import json

import numpy as np
import pytest
from support import adapter
from support.check_cases import CASES, differences

NAMES = [file.parent.name for file in sorted(CASES.glob("*/case.json"))]


def test_all_cases_are_here():
    assert len(NAMES) == 69


@pytest.mark.parametrize("name", NAMES)
def test_case_gives_the_outputs_of_the_reference(name):
    case = json.loads((CASES / name / "case.json").read_text())
    reference = dict(np.load(CASES / name / "outputs.npz"))
    assert differences(reference, adapter.run(CASES / name, case), atol=2e-5) == []
