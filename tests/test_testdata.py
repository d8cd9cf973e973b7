"""Files in tests/testdata are small, listed with source and licence, and created by scripts in tests/tools."""

import fnmatch

import pytest
from support.full_data import TESTDATA
from tools import cut_texts, cut_vocabularies, train_vocabulary

MOST = 8_000_000  # bytes that every clone has to carry
FILES = sorted(file.relative_to(TESTDATA).as_posix() for file in TESTDATA.rglob("*") if file.is_file())
README = (TESTDATA / "README.md").read_text()
HEAD, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:1] == "|"
]
LICENCES = (
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "CC BY 3.0",
    "CC BY 4.0",
    "CC BY-SA 3.0",
    "CC BY-SA 4.0",
    "licence texts",
)


def test_it_is_small():
    size = sum((TESTDATA / file).stat().st_size for file in FILES)
    assert size <= MOST, f"tests/testdata has {size:,} bytes"


def test_every_file_is_named_once_and_every_name_is_there():
    names = [row[0] for row in ROWS]
    rows = {file: [name for name in names if fnmatch.fnmatch(file, name)] for file in FILES if file != "README.md"}
    assert [file for file, found in rows.items() if len(found) != 1] == []
    assert [name for name in names if not any([name] == found for found in rows.values())] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_file_has_a_source_a_licence_and_what_was_kept(row):
    named = dict(zip(HEAD, row, strict=True))
    assert named["source"] and named["what was kept"] and named["licence"].startswith(LICENCES)
    if "/" in named["source"]:
        commits = [line.split()[2] for line in README.splitlines() if line.startswith(f"- {named['source']} ")]
        assert [len(commit) for commit in commits if commit.startswith(named["commit"])] == [40]
        text = named["source"].replace("/", "__")
        alone = f"{named['source']} (" in README.split("\n|")[0]  # its README states the licence
        assert alone or any(file.startswith(f"licences/{text}__") for file in FILES), "no text of its licence"


@pytest.mark.full_data
def test_the_scripts_make_what_is_here(full_data_dir, tmp_path):
    cut_texts.main(full_data_dir, tmp_path)
    cut_vocabularies.main(full_data_dir / "tokenizers", tmp_path / "tokenizers")
    train_vocabulary.main(tmp_path / "tokenizers")
    made = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert made == [file for file in FILES if file.split("/")[0] in {name.split("/")[0] for name in made}]
    assert [file for file in made if (tmp_path / file).read_bytes() != (TESTDATA / file).read_bytes()] == []
