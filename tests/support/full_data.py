"""Complete published files, in the layout of tests/testdata; `JAXMODELS_TEST_DATA=FOLDER` enables their tests."""

import functools
import importlib.util
import os
from pathlib import Path

import pytest

VARIABLE = "JAXMODELS_TEST_DATA"
TESTDATA = Path(__file__).resolve().parents[1] / "testdata"
PUBLISHED = (
    "checkpoints",
    "classification",
    "longdoc",
    "ner",
    "qa",
    "text",
    "tokenizers",
)  # the other folders were not published by others
TRAINED = TESTDATA / "tokenizers" / "llama"  # by tests/tools/train_vocabulary.py
# Files that are not in testdata: too large, or useless if reduced.
MORE = (
    "checkpoints/fake_gpt2/model.safetensors",
    "checkpoints/torch_formats/mnist.pt",
    "qa/squad/predictions-bert-ensemble.json",
)


@functools.cache
def folder() -> Path | None:
    """Return the folder set in the environment, or None.

    Raises:
      ValueError: The folder does not exist, or files are missing.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    path = Path(value).resolve()
    files = [file for name in PUBLISHED for file in (TESTDATA / name).rglob("*") if file.is_file()]
    files = [file for file in files if file.parent != TRAINED]
    names = [*MORE, *sorted(file.relative_to(TESTDATA).as_posix() for file in files)]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        found = (
            f"lacks {len(missing)} of its {len(names)} files, such as {missing[0]}"
            if path.is_dir()
            else "is not a folder"
        )
        raise ValueError(
            f"{VARIABLE}={value}: expected a folder with the complete files listed in tests/testdata/README.md, but it "
            f"{found}; set another folder, or unset {VARIABLE} to skip the tests that need them"
        )
    return path


def here(mark: pytest.Mark | None) -> bool:
    """Return whether the data of a test is available: the complete files, or a `package` that contains weights."""
    if mark is None:
        return True
    package = mark.kwargs.get("package")
    return folder() is not None if package is None else importlib.util.find_spec(package) is not None


def left_out() -> str:
    """Describe the data in one line, for the header of a test run."""
    path = folder()
    if path is None:
        return f"full data: none, so tests marked full_data are not collected; {VARIABLE}=FOLDER enables them"
    return f"full data: {path}"
