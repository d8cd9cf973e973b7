"""Batches of sequences of similar length, with little padding and few shapes to compile."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LengthBatch(NamedTuple):
    """A batch of sequences.

    Attributes:
      places: int [n], indices of the sequences.
      width: length to pad them to.
    """

    places: np.ndarray
    width: int


def length_batches(lengths: Sequence[int] | np.ndarray, rows: int, *, multiple: int = 32) -> list[LengthBatch]:
    """Groups sequences into batches by length, in ascending order.

    Each batch is padded to its longest sequence, rounded up to a multiple of `multiple`, so that there are few widths.
    The last batch may be smaller; if every shape is compiled, fill it with `np.resize(places, rows)`.

    Args:
      lengths: lengths of the sequences, [N].
      rows: batch size.
      multiple: widths are multiples of this.

    Raises:
      ValueError: rows or multiple is below 1.

    Examples:
      >>> [(batch.places.tolist(), batch.width) for batch in jm.length_batches([3, 70, 5, 64], rows=2)]
      [([0, 2], 32), ([3, 1], 96)]
    """
    if rows < 1 or multiple < 1:
        raise ValueError(f"rows and multiple must be at least 1, got rows={rows}, multiple={multiple}")
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    parts = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [LengthBatch(places, -(-int(lengths[places[-1]]) // multiple) * multiple) for places in parts]
