"""Batches for encoding many texts of different lengths: little padding, few shapes to compile."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LengthBatch(NamedTuple):
    """places: int [n], which texts these are; width: tokens to pad them to."""

    places: np.ndarray
    width: int


def length_batches(lengths: Sequence[int] | np.ndarray, rows: int, *, multiple: int = 32) -> list[LengthBatch]:
    """Texts in batches of `rows`, in the order of their lengths.

    Each batch is padded to its longest text, rounded up to a multiple of `multiple`, so there are few widths. The last
    batch may have fewer rows; `np.resize(places, rows)` fills it up where every shape is compiled.

    Args:
      lengths: tokens of each text, [N].

    Raises:
      ValueError: rows or multiple below 1.
    """
    if rows < 1 or multiple < 1:
        raise ValueError(f"rows and multiple are at least 1, got rows={rows}, multiple={multiple}")
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    parts = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [LengthBatch(places, -(-int(lengths[places[-1]]) // multiple) * multiple) for places in parts]
