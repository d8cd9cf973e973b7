"""The code in documents, for tests that run it."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def python_of(document: str, heading: str) -> list[str]:
    """Return the blocks of Python under a heading of the second level."""
    sections = re.split(r"^## (.+)\n", (DOCS / document).read_text(), flags=re.MULTILINE)
    text = dict(zip(sections[1::2], sections[2::2], strict=True))[heading]
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
