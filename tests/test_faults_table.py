"""The table of planted faults matches the current library and tests (see tests/tools/faults.py)."""

import ast
import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
from tools.faults import failures, faults

ROOT = Path(__file__).resolve().parents[1]
LEAST = 7
# The folders of each area.
AREAS = {
    "layers": ("jaxmodels/layers/",),
    "architectures": ("jaxmodels/architectures/",),
    "generation": ("jaxmodels/generation/",),
    "files": (
        "jaxmodels/convert.py",
        "jaxmodels/tensor_files/",
        "jaxmodels/hub/",
        "jaxmodels/config/",
        "jaxmodels/messages.py",
    ),
    "retrieval": ("jaxmodels/retrieval/",),
    "tokenization": ("jaxmodels/tokenization/",),
    "kernels": ("pallas_kernels/",),
    "training": ("jaxmodels/training/", "jaxmodels/sharding.py", "jaxmodels/estimate/"),
}


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.id)
def test_a_fault_can_be_planted_and_its_tests_are_there(fault):
    assert fault.file.startswith(AREAS[fault.area])
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(fault.planted(text))) != ast.dump(ast.parse(text))
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in fault.tests]
    for word in set(re.findall(r"\w+", fault.k)) - {"and", "or", "not"}:
        assert any(word in text for text in texts), f"no test of {', '.join(fault.tests)} is called {word}"


def test_every_area_has_its_faults():
    counts = Counter(fault.area for fault in faults())
    assert counts.keys() == AREAS.keys() and min(counts.values()) >= LEAST, counts
    assert len({fault.id for fault in faults()}) == counts.total()


@pytest.mark.parametrize(("text", "count"), [("", 0), ("here and here", 2)])
def test_a_fault_that_no_longer_fits_is_an_error_that_names_it(text, count):
    fault = dataclasses.replace(faults()[0], id="of-old", old="here")
    with pytest.raises(ValueError, match=f"of-old: {fault.file} holds the old text {count} times"):
        fault.planted(text)


def test_what_failed_is_read_from_pytests_summary():
    lines = [
        "1 failed",
        "FAILED tests/a.py::test_b[x y] - assert 1 == 2 - 1",
        "ERROR tests/c.py - ImportError",
        "ERROR",
    ]
    assert failures("\n".join(lines)) == ["tests/a.py::test_b[x y]", "tests/c.py"]
