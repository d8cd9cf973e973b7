"""The examples in docstrings run as printed, each on its own after the imports that docs/api/index.md states."""

import doctest

import pytest
from support import docstrings
from support.code_blocks import ROOT, code_blocks

(IMPORTS,) = code_blocks(ROOT / "docs/api/index.md", "python")


@pytest.mark.slow
@pytest.mark.parametrize("test", docstrings.examples(), ids=lambda test: test.name)
def test_example_runs(test, stand_ins):
    stand_ins(test.docstring)
    exec(IMPORTS.code, test.globs)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner().run(test, out=report.append)
    assert not failed, "".join(report)


def test_there_are_examples():
    assert len(docstrings.examples()) > 40
