"""The script of `make test-versions`: requirements, Python versions, and tests with missing packages."""

import subprocess
import sys
from pathlib import Path

import pytest
from tools import versions

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_of_a_user_has_a_lower_bound_and_is_pinned_to_it():
    project = versions.project()
    pinned = versions.packages("lowest", project)
    wanted = [*project["dependencies"], *(e for x in versions.EXTRAS for e in project["optional-dependencies"][x])]
    assert len(pinned) == len(wanted) + 1 and all("==" in each for each in pinned)
    assert pinned[-1].startswith("pytest==")


@pytest.mark.parametrize(
    ("requirement", "pinned"),
    [("a-b_c>=1.2", "a-b_c==1.2"), ("tokenizers>=0.22,!=0.23.1", "tokenizers==0.22"), ("a<3,>= 2.0", "a==2.0")],
)
def test_a_lower_bound_is_pinned(requirement, pinned):
    assert versions.lowest(requirement) == pinned


def test_a_package_without_a_lower_bound_is_named():
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound; write numpy>=VERSION"):
        versions.lowest("numpy<3")


@pytest.mark.parametrize(
    ("at_hand", "kinds", "sentences"),
    [
        ([(3, 11), (3, 13), (3, 14)], {"newest": (3, 14), "lowest": (3, 11)}, []),
        ([(3, 11), (3, 12)], {"newest": (3, 12), "lowest": (3, 11)}, ["3.13 or newer is not at hand"]),
        ([(3, 13)], {"newest": (3, 13)}, ["lowest: left out, since Python 3.11 is not at hand"]),
        ([], {}, ["newest: left out, since no Python", "lowest: left out"]),
    ],
)
def test_a_python_that_lacks_is_told_and_the_rest_runs(at_hand, kinds, sentences):
    found, said = versions.choose((3, 11), {version: version for version in at_hand}.get)
    assert found == kinds
    assert len(said) == len(sentences) and all(part in each for part, each in zip(sentences, said, strict=True))


def test_a_kind_of_environment_that_there_is_not_is_refused():
    with pytest.raises(SystemExit, match="expected newest, lowest or nothing for both, got oldest"):
        versions.main(["oldest"])


def test_a_test_of_a_missing_package_is_skipped_and_the_others_run(tmp_path):
    """Use a copy of the plugin, since it applies to the files next to it."""
    (tmp_path / "tests" / "tools").mkdir(parents=True)
    plugin = ROOT / "tests" / "tools" / "stand_ins.py"
    (tmp_path / "tests" / "tools" / "stand_ins.py").write_text(plugin.read_text())
    (tmp_path / "library.py").write_text("try:\n    import lacking\nexcept ImportError:\n    lacking = None\n")
    (tmp_path / "tests" / "test_some.py").write_text(
        "import sys\n"
        "import lacking\n"
        "import library\n\n\n"
        "def test_without():\n    assert library.lacking is None and 'lacking' not in sys.modules\n\n\n"
        "def test_with():\n    assert lacking.thing\n\n\n"
        "def test_later():\n    from lacking.part import thing\n"
    )
    (tmp_path / "tests" / "test_whole.py").write_text("from lacking.part import a\n\n\ndef test_it():\n    assert a\n")
    (tmp_path / "tests" / "test_own.py").write_text("def test_own():\n    import jaxmodels.nothing\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.tools.stand_ins", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed, 3 skipped" in done.stdout, done.stdout
    assert "FAILED tests/test_own.py::test_own - ModuleNotFoundError" in done.stdout


def test_what_is_chosen_and_left_out_is_there():
    for name in (*versions.CHOSEN, *versions.LEFT_OUT):
        assert (ROOT / "tests" / name).exists(), name
    assert all(name.partition("/")[0] in versions.CHOSEN for name in versions.LEFT_OUT)
