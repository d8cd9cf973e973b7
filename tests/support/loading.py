"""Load checkpoints without warnings, and compare parameters bit for bit."""

import warnings
from pathlib import Path

import numpy as np

import jaxmodels as jm
from jaxmodels.parameters import flatten


def quietly(folder: Path, **options) -> tuple:
    """Call `load` with warnings turned into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return jm.load(folder, **options)


def same(got: dict, expected: dict) -> None:
    """Assert that two parameter trees are equal, including dtypes."""
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    for path, leaf in expected.items():
        assert got[path].dtype == leaf.dtype
        np.testing.assert_array_equal(np.asarray(got[path]), np.asarray(leaf), err_msg=path)
