"""Maintain the column of tests in docs/parity.md.

    python tests/tools/parity_table.py          # writes the column "Tests" anew
    python tests/tools/parity_table.py --check  # says whether it is up to date

Tests carry their rows as markers, `@pytest.mark.parity("G11", ...)`: on functions, classes or a module's `pytestmark`.
They are read from the source, so that nothing is imported and every test counts, also one that this machine skips.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/parity.md"
TESTS = ROOT / "tests"
MARKER = "pytest.mark.parity"
CODE = r"[A-Z]{1,2}\d{1,2}"
COLUMNS = 6  # code, behaviour, definition, where, status, tests
STATUS = ("here", "refused")
_ITEM = rf"(?:{CODE}|note \d+)\b"
CITATION = re.compile(rf"\b[Pp](?:arity|ARITY)(?:\.md)?,? (?:rows? )?({_ITEM}(?:(?:, | to | and |, and |; ){_ITEM})*)")


class Row(NamedTuple):
    code: str
    status: str
    tests: str


class Marked(NamedTuple):
    """A test function; raises: whether it checks an error."""

    file: str
    name: str
    codes: tuple[str, ...]
    raises: bool


def rows(table: str) -> list[Row]:
    """The rows of the tables in a Markdown text.

    Raises:
      ValueError: a row with another number of columns or an unknown status, or a code that is there twice.
    """
    found: dict[str, Row] = {}
    for line in table.splitlines():
        if not re.match(rf"\| {CODE} \|", line):
            continue
        cells = _cells(line)
        if len(cells) != COLUMNS or cells[-2] not in STATUS:
            raise ValueError(f"expected {COLUMNS} columns, the fifth {' or '.join(STATUS)}; got {line[:60]!r}")
        row = Row(cells[0], *cells[-2:])
        if row.code in found:
            raise ValueError(f"row {row.code} occurs twice")
        found[row.code] = row
    return list(found.values())


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def tests_of(source: str, file: str) -> list[Marked]:
    """Return the test functions in a source, including those without a row."""
    return list(_tests(ast.parse(source), file, ()))


def _tests(parent: ast.Module | ast.ClassDef, file: str, codes: tuple[str, ...]) -> Iterator[Marked]:
    for node in parent.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "pytestmark" for target in node.targets):
            codes += _codes([node.value], file)
    for node in parent.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _tests(node, file, codes + _codes(node.decorator_list, file))
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            own = dict.fromkeys(codes + _codes(node.decorator_list, file))
            raises = any(isinstance(part, ast.Call) and _name(part) == "pytest.raises" for part in ast.walk(node))
            yield Marked(file, node.name, tuple(own), raises)


def _codes(nodes: Iterable[ast.AST], file: str) -> tuple[str, ...]:
    marks = [part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Call) and _name(part) == MARKER]
    arguments = [argument for mark in marks for argument in mark.args]
    for argument in arguments:
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise ValueError(
                f"{file}:{argument.lineno}: expected the code of a row as a string literal, got {ast.unparse(argument)}"
            )
    return tuple(argument.value for argument in arguments if isinstance(argument, ast.Constant))


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)


def cited(text: str) -> tuple[list[str], list[int]]:
    """Return the rows and notes that a comment cites: `docs/parity.md, A1 to A4, N2, note 7`.

    Of a range, the first and the last row.
    """
    codes, notes = [], []
    for listed in CITATION.findall(text):
        codes += re.findall(rf"\b{CODE}\b", listed)
        notes += [int(number) for number in re.findall(r"\bnote (\d+)", listed)]
    return codes, notes


def notes_of(table: str) -> set[int]:
    """Return the numbers of the notes in the last section."""
    return {int(number) for number in re.findall(r"^(\d+)\. ", table, flags=re.MULTILINE)}


def wrong(table: str, tests: Sequence[Marked]) -> list[str]:
    """Return inconsistencies between rows and tests, as sentences."""
    listed = rows(table)
    codes = {row.code for row in listed}
    found = [
        f"tests/{test.file}: {test.name} carries {code}, which is no row of docs/parity.md"
        for test in tests
        for code in test.codes
        if code not in codes
    ]
    for row in listed:
        own = [test for test in tests if row.code in test.codes]
        if not own:
            found.append(f"row {row.code} has no test: mark one with @{MARKER}({row.code!r})")
        elif row.status == "refused" and not any(test.raises for test in own):
            found.append(f"row {row.code} is refused, and none of its tests holds a pytest.raises")
    named = re.compile(rf"(^|_)({CODE}|section_\d+)(_|$)")
    found += [
        f"tests/{test.file}: {test.name} has a row in its name: say it in words, and mark it"
        for test in tests
        if named.search(test.name)
    ]
    return found


def wrong_citations(table: str, comments: Iterable[tuple[int, str]], file: str) -> list[str]:
    """Return citations in the comments of a file that are missing in the table."""
    codes, notes = {row.code for row in rows(table)}, notes_of(table)
    found = []
    for line, text in comments:
        of_rows, of_notes = cited(text)
        missing = [code for code in of_rows if code not in codes] + [f"note {n}" for n in of_notes if n not in notes]
        found += [f"{file}:{line}: docs/parity.md has no {name}" for name in missing]
    return found


def all_tests(folder: Path = TESTS) -> list[Marked]:
    """Return the test functions in a folder and its subfolders; paths are relative to the folder."""
    paths = sorted(folder.glob("**/test_*.py"))
    return [test for path in paths for test in tests_of(path.read_text(), path.relative_to(folder).as_posix())]


def with_column(table: str, tests: Iterable[Marked]) -> str:
    """Return the text with an updated last column."""
    counts: dict[str, Counter[str]] = {row.code: Counter() for row in rows(table)}
    for test in tests:
        for code in test.codes:
            if code in counts:
                counts[code][test.file] += 1
    return "\n".join(_filled(line, counts) for line in table.split("\n"))


def _filled(line: str, counts: dict[str, Counter[str]]) -> str:
    if not re.match(rf"\| {CODE} \|", line):
        return line
    *cells, _ = _cells(line)
    files = sorted(counts[cells[0]].items())
    listed = ", ".join(f"[{file}](../tests/{file}) ({count})" for file, count in files)
    return f"| {' | '.join([*cells, listed])} |"


def main(arguments: list[str], path: Path = TABLE, folder: Path = TESTS) -> int:
    if arguments not in ([], ["--check"]):
        print(f"expected --check or no argument, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    old = path.read_text()
    new = with_column(old, all_tests(folder))
    if arguments and old != new:
        print(f"{path.name} is out of date: run python tests/tools/parity_table.py", file=sys.stderr)
        return 1
    if old != new:
        path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
