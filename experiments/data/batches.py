"""Batches of token windows: shuffled for training (grain), and every token once for validation.

A causal model predicts T-1 tokens from a window of T, so windows overlap by one: each token is predicted once.
"""

from collections.abc import Iterator

import grain
import numpy as np

IGNORE = -100


class Rows:
    """Batches of the examples of a grain dataset, of which a process loads some rows: a data source for grain."""

    def __init__(self, examples: grain.MapDataset, batch_size: int, rows: np.ndarray | None):
        """Create batches.

        Args:
          examples: The examples, in the order of training.
          batch_size: Number of examples per batch, of all processes together.
          rows: Rows of each batch that this process loads; None for all.
        """
        self._examples, self._batch_size = examples, batch_size
        self._rows = range(batch_size) if rows is None else rows.tolist()

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        examples = [self._examples[int(number) * self._batch_size + row] for row in self._rows]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class Windows:
    """Windows of T tokens of an array, as a random-access data source for grain."""

    def __init__(self, tokens: np.ndarray, length: int):
        """Raise ValueError if the tokens do not fill one window."""
        self._tokens, self._length = tokens, length
        if not len(self):
            raise ValueError(f"{len(tokens)} tokens do not fill one window of {length}; take more text")

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // (self._length - 1)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = index * (self._length - 1)
        ids = self._tokens[start : start + self._length].astype(np.int32)
        return {"input_ids": ids, "labels": ids}


def training(
    tokens: np.ndarray, *, length: int, batch_size: int, seed: int, rows: np.ndarray | None = None
) -> grain.DatasetIterator:
    """Iterate endlessly over batches {"input_ids", "labels"}, int32 [batch_size, length].

    Every epoch is shuffled differently; the order is a function of the seed. The state of the iterator, its position,
    the number of the batch, can be saved and restored with any `rows`, the rows of each batch that this process loads.
    """
    windows = grain.MapDataset.source(Windows(tokens, length)).seed(seed).shuffle().repeat()
    source = grain.MapDataset.source(Rows(windows, batch_size, rows))
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def validation(
    tokens: np.ndarray, *, length: int, batch_size: int, limit: int | None = None, rows: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over batches of the same shape in which every token except the first is a label exactly once.

    Args:
      tokens: int [n].
      length: Tokens per window.
      batch_size: Windows per batch, of all processes together.
      limit: Use at most this many windows, evenly spaced; None for all.
      rows: Rows of each batch that this process loads; None for all.
    """
    starts = np.arange(0, len(tokens) - 1, length - 1)
    if limit is not None and limit < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
    for first in range(0, len(starts), batch_size):
        ids = np.zeros((batch_size, length), np.int32)
        labels = np.full((batch_size, length), IGNORE, np.int32)
        for row, start in enumerate(starts[first : first + batch_size]):
            window = tokens[start : start + length]
            ids[row, : len(window)] = labels[row, : len(window)] = window
        yield {"input_ids": ids, "labels": labels} if rows is None else {"input_ids": ids[rows], "labels": labels[rows]}
