"""Extract comments and docstrings from Python files."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("jaxmodels", "pallas_kernels", "experiments", "benchmarks", "tests")
NOT_OURS = ("testdata", "__pycache__", ".ipynb_checkpoints")


def files(*endings: str, leave_out: tuple[str, ...] = NOT_OURS) -> Iterator[Path]:
    """Return the files of the repository with one of these suffixes, in the code folders, docs/ and the root."""
    found = [path for folder in (*CODE, "docs", ".ci", ".github") for path in (ROOT / folder).rglob("*")]
    for path in (*ROOT.glob("*"), *found):
        if path.name.endswith(endings) and path.is_file() and not set(path.parts) & set(leave_out):
            yield path


def comments(source: str) -> list[tuple[int, str]]:
    """Yield (line, text) for each docstring and block of comments, with lines joined by spaces."""
    found = list(_docstrings(source))
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != last + 1:
            found.append((first, " ".join(block)))
            block = []
        first, last = first if block else line, line
        block.append(token.string.lstrip("# "))
    return sorted([*found, (first, " ".join(block))] if block else found)


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield node.body[0].lineno, " ".join(text.split())
