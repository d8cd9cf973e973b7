"""Inputs, what a call may be asked for, and arrays that are equal within a tolerance; nothing here imports torch."""

import numpy as np
from support.tiny import TINY

from jaxmodels.parameters import flatten

TOLERANCE = 2e-5
# Of a call: all that it may return beside its result.
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def ids(shape: tuple[int, ...], seed: int = 0, low: int = 1, high: int = TINY["vocab_size"]) -> np.ndarray:
    """Random ids; the pad id 0 is left out."""
    return np.random.default_rng(seed).integers(low, high, shape)


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def flags(length: int, *rows: tuple[int, ...]) -> np.ndarray:
    """int [rows, length]: 1 at the places of each row."""
    return np.array([[int(t in row) for t in range(length)] for row in rows])


def close(got, expected, name: str = "", where: np.ndarray | None = None, tolerance: float = TOLERANCE) -> None:
    """Equal within `tolerance`, relative to the largest entry; `where` restricts the leading axes.

    expected: an array, or a tensor of torch.
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
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    assert any(np.asarray(leaf).any() for leaf in expected.values()), "nothing to compare: all zero"
    for path, leaf in expected.items():
        close(got[path], leaf, path, tolerance=tolerance)


def as_lists(value: np.ndarray | list[np.ndarray]) -> list:
    """An array, or rows of different lengths, as lists."""
    return [row.tolist() for row in value] if isinstance(value, list) else value.tolist()
