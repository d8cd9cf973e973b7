"""Windows of tokens: shuffled batches for training (grain), every token once for validation.

Windows of T tokens overlap by one, because a causal model predicts T-1 tokens from T: so each token is predicted once.
"""

from collections.abc import Iterator

import grain
import numpy as np

IGNORE = -100


class Windows:
    """The T-token windows of a token array, as grain's random-access source."""

    def __init__(self, tokens: np.ndarray, length: int):
        """Raises ValueError where the tokens do not fill one window."""
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
    tokens: np.ndarray, *, length: int, rows: int, seed: int, process: int = 0, processes: int = 1
) -> grain.DatasetIterator:
    """Endless batches {"input_ids", "labels"}: int32 [rows / processes, length], another order in every epoch.

    The order is a function of the seed, and the iterator's state is its position: it can be saved and set. Each process
    reads its own share of every batch.

    Raises:
      ValueError: the processes do not divide the rows.
    """
    if rows % processes:
        raise ValueError(f"batch_size={rows} does not divide among {processes} processes")
    windows = grain.MapDataset.source(Windows(tokens, length)).seed(seed).shuffle().repeat()
    mine = windows[process::processes].batch(rows // processes)
    return iter(mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def validation(
    tokens: np.ndarray, *, length: int, rows: int, limit: int | None = None, process: int = 0, processes: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the same shape in which every token but the first is a label once.

    Args:
      limit: at most this many windows, spread evenly over the text; None: all of it.
    """
    starts = np.arange(0, len(tokens) - 1, length - 1)
    if limit is not None and limit < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
    share = rows // processes
    for first in range(0, len(starts), rows):
        ids = np.zeros((rows, length), np.int32)
        labels = np.full((rows, length), IGNORE, np.int32)
        for row, start in enumerate(starts[first : first + rows]):
            window = tokens[start : start + length]
            ids[row, : len(window)] = labels[row, : len(window)] = window
        mine = slice(process * share, (process + 1) * share)
        yield {"input_ids": ids[mine], "labels": labels[mine]}
