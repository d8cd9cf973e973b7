"""Batches of token windows: shuffled for training (grain), and every token once for validation.

A causal model predicts T-1 tokens from a window of T, so windows overlap by one: each token is predicted once.
"""

from collections.abc import Iterator

import grain
import numpy as np

IGNORE = -100


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
    tokens: np.ndarray, *, length: int, batch_size: int, seed: int, process: int = 0, processes: int = 1
) -> grain.DatasetIterator:
    """Iterate endlessly over batches {"input_ids", "labels"}, int32 [batch_size / processes, length].

    Every epoch is shuffled differently; the order is a function of the seed. The state of the iterator, its position,
    can be saved and restored. Each process reads its share of every batch.

    Raises:
      ValueError: batch_size is not divisible by the number of processes.
    """
    if batch_size % processes:
        raise ValueError(f"batch_size={batch_size} does not divide among {processes} processes")
    windows = grain.MapDataset.source(Windows(tokens, length)).seed(seed).shuffle().repeat()
    local = windows[process::processes].batch(batch_size // processes)
    return iter(local.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def validation(
    tokens: np.ndarray, *, length: int, batch_size: int, limit: int | None = None, process: int = 0, processes: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over batches of the same shape in which every token except the first is a label exactly once.

    Args:
      tokens: int [n].
      length: Tokens per window.
      batch_size: Windows per batch, of all processes together.
      limit: Use at most this many windows, evenly spaced; None for all.
      process: Index of this process.
      processes: Number of processes.
    """
    starts = np.arange(0, len(tokens) - 1, length - 1)
    if limit is not None and limit < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
    share = batch_size // processes
    for first in range(0, len(starts), batch_size):
        ids = np.zeros((batch_size, length), np.int32)
        labels = np.full((batch_size, length), IGNORE, np.int32)
        for row, start in enumerate(starts[first : first + batch_size]):
            window = tokens[start : start + length]
            ids[row, : len(window)] = labels[row, : len(window)] = window
        local = slice(process * share, (process + 1) * share)
        yield {"input_ids": ids[local], "labels": labels[local]}
