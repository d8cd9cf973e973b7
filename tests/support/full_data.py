"""Whole published files, laid out as tests/testdata: `JAXMODELS_TEST_DATA=FOLDER` turns on the tests that need them."""

import functools
import importlib.util
import os
from pathlib import Path

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
)  # what else is there is ours
# What is too large, or of no use cut down.
MORE = (
    "checkpoints/fake_gpt2/model.safetensors",
    "checkpoints/torch_formats/mnist.pt",
    "qa/squad/predictions-bert-ensemble.json",
)


@functools.cache
def folder() -> Path | None:
    """The folder that the environment names, or None.

    Raises:
      ValueError: it is none, or lacks files.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    path = Path(given).resolve()
    files = [file for name in PUBLISHED for file in (TESTDATA / name).rglob("*") if file.is_file()]
    names = [*MORE, *sorted(file.relative_to(TESTDATA).as_posix() for file in files)]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        found = (
            f"lacks {len(missing)} of its {len(names)} files, such as {missing[0]}" if path.is_dir() else "is no folder"
        )
        raise ValueError(
            f"{VARIABLE}={given}: expected a folder with the whole files that tests/testdata/README.md names, but it "
            f"{found}; name another, or unset {VARIABLE} to leave out the tests that need them"
        )
    return path


def here(mark) -> bool:
    """Whether a test with this marker, or with None, has its data: those files, or `package`, which carries weights."""
    if mark is None:
        return True
    package = mark.kwargs.get("package")
    return folder() is not None if package is None else importlib.util.find_spec(package) is not None


def left_out() -> str:
    """What a run says of it, in one line."""
    path = folder()
    if path is None:
        return f"full data: none, so tests marked full_data are left out; {VARIABLE}=FOLDER turns them on"
    return f"full data: {path}"
