"""The experiments of a checkout: a folder next to this package, which a wheel has in the place of this file."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "experiments")]
