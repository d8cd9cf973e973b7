"""Hook of mkdocs: pages are at their paths in the repository, and may be outside docs/.

Files that pages link to, such as tests, are part of the site as they are; notebooks are pages with their outputs.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ".ipynb"
LINK = re.compile(r"(?:\]\(|src=\")([^)#\s\":]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs/ by the pages of `nav` and what they link to."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} | set(_paths(config.nav))
    names = pages | {name for page in pages for name in _linked(page)}
    return Files(
        [
            *theme,
            *(
                (Notebook if name.endswith(NOTEBOOK) else File)(
                    name, str(ROOT), config.site_dir, config.use_directory_urls
                )
                for name in sorted(names)
            ),
        ]
    )


class Notebook(File):
    """A notebook as a page of Markdown."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        cells = json.loads((ROOT / self.src_uri).read_text(encoding="utf-8"))["cells"]
        return "\n\n".join(block for cell in cells for block in _blocks(cell))


def _blocks(cell: dict[str, Any]) -> list[str]:
    """The source of a cell and its outputs as blocks of Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [_fenced(source, "python"), *map(_output, cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![figure](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
    return _fenced("".join(output.get("text") or data["text/plain"]), "text")


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _paths(nav: Any) -> list[str]:
    """The paths at the leaves of a nav."""
    if isinstance(nav, str):
        return [nav]
    return [path for value in (nav.values() if isinstance(nav, dict) else nav) for path in _paths(value)]


def _linked(page: str) -> list[str]:
    """The files that a page links to; links to pages that are not part of the site stay broken."""
    text, folder = (ROOT / page).read_text(encoding="utf-8"), os.path.dirname(page)
    names = [os.path.normpath(os.path.join(folder, target)) for target in LINK.findall(text)]
    return [name for name in names if not name.endswith(".md") and (ROOT / name).is_file()]
