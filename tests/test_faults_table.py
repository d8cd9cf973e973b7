"""The table of planted faults fits the library and the tests as they are now (see tests/tools/faults.py)."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from tools.faults import faults

ROOT = Path(__file__).resolve().parents[1]
LEAST = 7
# Where the faults of an area lie.
AREAS = {
    "layers": ("jaxmodels/layers/",),
    "architectures": ("jaxmodels/architectures/",),
    "generation": ("jaxmodels/generation/",),
    "files": ("jaxmodels/convert.py", "jaxmodels/tensor_files/", "jaxmodels/hub/"),
    "retrieval": ("jaxmodels/retrieval/",),
    "tokenization": ("jaxmodels/tokenization/",),
    "kernels": ("pallas_kernels/",),
    "training": ("jaxmodels/training/", "jaxmodels/sharding.py", "jaxmodels/estimate/"),
}


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.id)
def test_a_fault_can_be_planted_and_its_tests_are_there(fault):
    assert fault.file.startswith(AREAS[fault.area])
    planted = fault.planted((ROOT / fault.file).read_text(encoding="utf-8"))
    assert fault.old != fault.new and ast.dump(ast.parse(planted)) != ast.dump(
        ast.parse((ROOT / fault.file).read_text(encoding="utf-8"))
    )
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in fault.tests]
    for word in set(re.findall(r"\w+", fault.k)) - {"and", "or", "not"}:
        assert any(word in text for text in texts), f"no test of {', '.join(fault.tests)} is called {word}"


def test_every_area_has_its_faults():
    counts = Counter(fault.area for fault in faults())
    assert counts.keys() == AREAS.keys() and min(counts.values()) >= LEAST, counts
    assert len({fault.id for fault in faults()}) == counts.total()
