"""Labelled texts as padded arrays: one label per text, or one per token."""

from collections.abc import Sequence

import numpy as np

from experiments.data.batches import IGNORE


class LabelledTexts:
    """Examples for `buckets`: token ids and labels.

    Attributes:
      lengths: [n], in tokens.
    """

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int] | Sequence[Sequence[int]], pad: int):
        """Takes n rows of ids, and n labels or n rows of as many labels; IGNORE where there is none."""
        self._ids, self._labels, self._pad = ids, labels, pad
        self.lengths = np.array([len(row) for row in ids])

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """input_ids, attention_mask: int32 [B,length], padded on the right; labels: [B], or [B,length]."""
        rows = [self._ids[index] for index in indices]
        labels = [self._labels[index] for index in indices]
        return {
            "input_ids": _padded(rows, length, self._pad),
            "attention_mask": _padded([[1] * len(row) for row in rows], length, 0),
            "labels": np.asarray(labels, np.int32) if np.ndim(labels[0]) == 0 else _padded(labels, length, IGNORE),
        }


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> np.ndarray:
    out = np.full((len(rows), length), value, np.int32)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out
