"""The notebooks run from top to bottom, and the outputs that are stored in them are those of their code."""

import json
import re

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat", reason="reads notebooks")
pytest.importorskip("nbclient", reason="runs notebooks")
notebooks = pytest.importorskip("tools.notebooks")

MOST_BYTES, MOST_CELLS = 160_000, 16
NAMES = [path.stem for path in notebooks.NOTEBOOKS]
NIGHTLY = {"estimate_a_pod": pytest.mark.long}  # compiles for TPUs


@pytest.fixture(scope="module")
def kernel():
    with notebooks.kernel() as manager:
        yield manager


def path_of(name: str):
    return notebooks.FOLDER / f"{name}.ipynb"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_complete_and_small(name):
    path, notebook = path_of(name), nbformat.read(path_of(name), as_version=4)
    nbformat.validate(notebook)
    cells = notebooks.code_cells(notebook)
    assert notebook.metadata[notebooks.DIGEST] == notebooks.digest(notebook), f"`make notebooks` runs {path.name} again"
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for each in notebooks.printed(notebook).values() for output in each]
    assert {kind for kind, _ in outputs} <= {"stdout", "result", "figure"}
    assert ("figure", "") in outputs
    assert not re.search(r"/(home|root|tmp|work|Users)/|0x[0-9a-f]{6}", "".join(text for _, text in outputs))
    assert path.stat().st_size < MOST_BYTES and len(notebook.cells) <= MOST_CELLS


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_in_colab_and_takes_a_checkpoint_of_the_hub(name):
    notebook = json.loads(path_of(name).read_text(encoding="utf-8"))
    title, install, *others = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert f"/blob/main/experiments/notebooks/{name}.ipynb)" in title
    assert install.startswith('import sys\n\nif "google.colab" in sys.modules:')
    assert re.search('in Colab.*"', "".join(others), re.IGNORECASE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=NIGHTLY.get(name, ())) for name in NAMES])
def test_a_notebook_runs_and_prints_what_it_stores(name, kernel):
    """Numbers with a fraction may differ a little, as rounding does between processors."""
    stored = notebooks.printed(nbformat.read(path_of(name), as_version=4))
    found = notebooks.printed(notebooks.executed(path_of(name), kernel))
    assert found.keys() == stored.keys()
    for cell, outputs in found.items():
        assert [kind for kind, _ in outputs] == [kind for kind, _ in stored[cell]], cell
        for (_, text), (_, expected) in zip(outputs, stored[cell], strict=True):
            words, values = notebooks.numbers(text)
            expected_words, expected_values = notebooks.numbers(expected)
            assert words == expected_words, f"{cell} printed {text}"
            np.testing.assert_allclose(values, expected_values, rtol=0.1, atol=0.05, err_msg=cell)
