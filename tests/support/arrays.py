"""Random inputs, and comparison of arrays within a tolerance; torch is not imported."""

import numpy as np
from support.tiny import TINY

from jaxmodels.parameters import flatten

TOLERANCE = 2e-5
# Call arguments for all optional outputs.
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def ids(shape: tuple[int, ...], seed: int = 0, low: int = 1, high: int = TINY["vocab_size"]) -> np.ndarray:
    """Return random ids without the padding id 0."""
    return np.random.default_rng(seed).integers(low, high, shape)


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def flags(length: int, *rows: tuple[int, ...]) -> np.ndarray:
    """Return int [rows, length] with 1 at the positions listed for each row."""
    return np.array([[int(t in row) for t in range(length)] for row in rows])


def close(got, expected, name: str = "", where: np.ndarray | None = None, tolerance: float = TOLERANCE) -> None:
    """Assert equality within `tolerance` relative to the largest entry.

    Args:
      got: Actual array.
      expected: Expected array, or a tensor of torch.
      name: Name for the error message.
      where: bool mask over the leading axes of the entries to compare.
      tolerance: Relative tolerance.
    """
    got = np.asarray(got, np.float64)
    expected = expected.detach().double().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    if where is not None:
        got, expected = got[where], expected[where]
    assert np.isfinite(got).all(), f"{name}: not finite"
    error, scale = np.abs(got - expected).max(initial=0.0), max(1.0, np.abs(expected).max(initial=0.0))
    assert error <= tolerance * scale, f"{name}: error {error:.2g} > {tolerance:g} * {scale:.3g}"


def trees_agree(got: dict, expected: dict, tolerance: float = TOLERANCE) -> None:
    """Assert that two parameter trees are equal within a tolerance, and not all zero."""
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    assert any(np.asarray(leaf).any() for leaf in expected.values()), "nothing to compare: all zero"
    for path, leaf in expected.items():
        close(got[path], leaf, path, tolerance=tolerance)


def as_lists(value: np.ndarray | list[np.ndarray]) -> list:
    """Convert an array, or a list of arrays of different lengths, to nested lists."""
    return [row.tolist() for row in value] if isinstance(value, list) else value.tolist()
