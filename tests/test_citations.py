"""Files cited by comments, docstrings and Markdown texts exist."""

from pathlib import PurePosixPath

import pytest
from tools import citations as tool
from tools.comments import ROOT, comments, files

KNOWN = tool.Known(tool.relative(path, ROOT).as_posix() for path in files("", leave_out=("__pycache__",)))
SOME = tool.Known(["README.md", "docs/parity.md", "a/b/model.py", "a/b/notes.md", "tests/test_x.py"])


def test_files_named_in_comments_are_there():
    found, read = {}, 0
    for path in files(".py"):
        source = path.read_text()
        # Extracting comments is slow, and most files cite nothing.
        if tool.PATH.search(source) or tool.CAPITALS.search(source):
            read += 1
            name = tool.relative(path, ROOT)
            for line, text in comments(source):
                if bad := tool.missing(text, name.parent, KNOWN):
                    found[f"{name}:{line}"] = bad
    assert found == {}
    assert read > 150


def test_files_named_in_texts_and_links_are_there():
    found = {}
    for path in files(".md"):
        name = tool.relative(path, ROOT)
        if bad := tool.missing(path.read_text(), name.parent, KNOWN, links=True):
            found[name.as_posix()] = bad
    assert found == {}


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("see README.md, docs/parity.md and b/model.py; transformers/utils/generic.py and modeling_gpt2.py", []),
        ("notes.md beside it, ./notes.md too, ../../README.md", []),
        ("see DESIGN.md", ["DESIGN.md"]),
        ("tests/parity/test_x.py moved", ["tests/parity/test_x.py"]),
        ("c/model.py and model.py", ["c/model.py"]),
        ("(DESIGN section 5)", ["DESIGN section 5"]),
        ("(PARITY N4, N5), and FLAN-T5", ["PARITY N4"]),
        ("https://example.org/spec.md, <family>/config.py, *.py and re.py(", []),
    ],
)
def test_what_is_not_there_is_found(text, bad):
    assert tool.missing(text, PurePosixPath("a/b"), SOME) == bad


def test_links_lead_to_files_and_folders():
    text = "[a](../a/b/model.py#L3) [b](https://example.org/x.html) [c](../a/) [d](../a/c) [e](parity.md)"
    assert tool.missing(text, PurePosixPath("docs"), SOME, links=True) == ["../a/c"]
