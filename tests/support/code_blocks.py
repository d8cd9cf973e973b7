"""The code blocks of a Markdown page, and the comments that say why one is not run."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A comment on the line above a fence, and the block.
BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class CodeBlock(NamedTuple):
    """A code block.

    Attributes:
      language: of the fence, "" for none.
      code: text between the fences.
      line: line of its first line of code on the page, from 1.
      reason: why it is not run, from the comment above it; None: it is run.
    """

    language: str
    code: str
    line: int
    reason: str | None


def code_blocks(page: Path, *languages: str) -> list[CodeBlock]:
    """Returns the blocks of a page in these languages, or all."""
    text = page.read_text(encoding="utf-8")
    found = [
        CodeBlock(match[2], match[3], text[: match.start(3)].count("\n") + 1, match[1])
        for match in BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]
