"""docs/parity.md is consistent with the tests, and each of the checks can fail."""

import pytest
from tools import comments as tool
from tools import parity_table as parity

TABLE = """# Title
| # | Behaviour | Definition | Where | Status | Tests |
|---|---|---|---|---|---|
| C1 | Config | a, b | `c.py:1` | here | [test_a.py](../tests/test_a.py) (2) |
| N7 | Constrained | c | `d.py` | refused | [test_b.py](../tests/test_b.py) (1) |

1. A note.
"""
TEST_A = """
import pytest
pytestmark = pytest.mark.parity("C1")
def test_it_is_read(): ...
class TestMore:
    def test_it_is_written(self): ...
def helper(): ...
"""
TEST_B = """
import pytest
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parity("N7")
def test_it_is_refused(name):
    with pytest.raises(ValueError): ...
def test_without_a_row(): ...
"""


def fitting(*, a: str = TEST_A, b: str = TEST_B) -> list[parity.Marked]:
    return [*parity.tests_of(a, "test_a.py"), *parity.tests_of(b, "test_b.py")]


@pytest.fixture(scope="module")
def every_test():
    return parity.all_tests()


def test_every_row_has_its_tests_and_every_marker_its_row(every_test):
    assert parity.wrong(parity.TABLE.read_text(), every_test) == []


def test_the_column_of_tests_is_up_to_date(every_test):
    table = parity.TABLE.read_text()
    assert table == parity.with_column(table, every_test), "run python tests/tools/parity_table.py"


def test_what_comments_cite_of_the_table_is_there():
    table, found, read = parity.TABLE.read_text(), [], 0
    for path in tool.files(".py"):
        source = path.read_text()
        # Extracting comments is slow, and most files cite nothing.
        if parity.CITATION.search(" ".join(source.replace("#", " ").split())):
            read += 1
            found += parity.wrong_citations(table, tool.comments(source), path.relative_to(tool.ROOT).as_posix())
    assert found == []
    assert read > 80, "citations are looked for where they are"


def test_a_table_and_tests_that_fit():
    assert parity.wrong(TABLE, fitting()) == []
    assert parity.with_column(TABLE, fitting()) == TABLE
    assert [(row.code, row.status) for row in parity.rows(TABLE)] == [("C1", "here"), ("N7", "refused")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": ""}, "row N7 has no test"),
        ({"a": TEST_A.replace('("C1")', '("C2")')}, "test_a.py: test_it_is_read carries C2, which is no row"),
        ({"b": TEST_B.replace("pytest.raises(ValueError)", "nothing")}, "N7 is refused, and none of its tests"),
        ({"a": TEST_A.replace("test_it_is_read", "test_C1_is_read")}, "test_C1_is_read has a row in its name"),
        ({"a": TEST_A.replace("test_it_is_written", "test_section_8_pad")}, "test_section_8_pad has a row in its name"),
    ],
)
def test_what_does_not_fit_is_said(changes, message):
    assert any(message in said for said in parity.wrong(TABLE, fitting(**changes)))


def test_a_model_s_name_in_a_test_s_name_is_no_row():
    assert parity.wrong(TABLE, fitting(a=TEST_A.replace("test_it_is_read", "test_t5_ids_of_gpt2"))) == []


def test_another_number_of_tests_makes_the_column_stale():
    fewer = fitting(a=TEST_A.replace("def test_it_is_read(): ...", ""))
    assert parity.with_column(TABLE, fewer) == TABLE.replace("test_a.py) (2)", "test_a.py) (1)")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| here | [", "| there | [", "here or refused"),
        ("| a, b | `c.py:1` |", "| a, b |", "6 columns"),
        ("| N7 |", "| C1 |", "row C1 occurs twice"),
    ],
)
def test_a_damaged_table_is_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        parity.rows(TABLE.replace(old, new))


def test_a_row_that_is_computed_is_refused():
    with pytest.raises(ValueError, match="test_a.py:3: expected the code of a row as a string literal, got CODE"):
        fitting(a=TEST_A.replace('"C1"', "CODE"))


@pytest.mark.parametrize(
    ("text", "codes", "notes"),
    [
        ("Scores (docs/parity.md, N4, N13).", ["N4", "N13"], []),
        ("a quirk; docs/parity.md, A13 to A17, note 7.", ["A13", "A17"], [7]),
        ("parity N4 and C1", ["N4", "C1"], []),
        ("docs/parity.md has rows; T5 is a model, float8 E4", [], []),
    ],
)
def test_citations_are_found(text, codes, notes):
    assert parity.cited(text) == (codes, notes)


def test_a_wrong_citation_is_said_with_its_line():
    source = '"""Fine (docs/parity.md, C1, note 1)."""\n\nx = 1  # see docs/parity.md,\n# N8, note 2\n'
    assert parity.wrong_citations(TABLE, tool.comments(source), "a.py") == [
        "a.py:3: docs/parity.md has no N8",
        "a.py:3: docs/parity.md has no note 2",
    ]
    assert parity.wrong_citations(TABLE, tool.comments('"docs/parity.md, N8"'.join(["x = ", ""])), "a.py") == []


@pytest.mark.parametrize(("arguments", "status"), [(["--check"], 1), ([], 0), (["--chek"], 2)])
def test_the_command_says_or_mends(arguments, status, tmp_path, capsys):
    table, folder = tmp_path / "parity.md", tmp_path / "tests"
    folder.mkdir()
    (folder / "test_a.py").write_text(TEST_A)
    (folder / "test_b.py").write_text(TEST_B)
    stale = TABLE.replace("(2)", "(5)")
    table.write_text(stale)
    assert parity.main(arguments, table, folder) == status
    assert table.read_text() == (TABLE if status == 0 else stale)
    assert bool(capsys.readouterr().err) == (status > 0)
    assert parity.main(["--check"], table, folder) == (0 if status == 0 else 1)
