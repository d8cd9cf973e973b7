"""Batches of texts of like length, in few static shapes: a compiled step per bucket, and little padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import grain
import numpy as np

from experiments.data.batches import IGNORE


class Examples(Protocol):
    """What is put into batches: the examples' lengths [n] in tokens, and a batch of some of them."""

    lengths: np.ndarray

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Arrays [len(indices), ...] padded to `length`; "labels" are among them."""


class Planned(NamedTuple):
    """Which examples make up a batch, and its length in tokens."""

    indices: np.ndarray
    length: int


def plan(lengths: np.ndarray, rows: int, buckets: Sequence[int], order: np.ndarray) -> list[Planned]:
    """Whole batches of `rows` examples, each from the shortest bucket that takes them, in the order given.

    What does not fill a batch goes to the next bucket; what is left in the last one is left out. So the number of
    batches is len(order) // rows, whatever the order.
    """
    homes = np.searchsorted(buckets, lengths[order])
    batches, left = [], order[:0]
    for number, length in enumerate(buckets):
        there = np.concatenate([left, order[homes == number]])
        whole = len(there) - len(there) % rows
        batches += [Planned(indices, length) for indices in there[:whole].reshape(-1, rows)]
        left = there[whole:]
    return batches


class Run:
    """The batches of a whole training run, as grain's random-access source: number i is a function of i and the seed.

    Each epoch shuffles the examples and then the batches.
    """

    def __init__(self, examples: Examples, steps: int, rows: int, buckets: Sequence[int], seed: int, share: slice):
        check(examples, buckets)
        self._per_epoch = len(examples.lengths) // rows
        if not self._per_epoch:
            raise ValueError(f"batch_size={rows} is more than the {len(examples.lengths)} examples there are")
        self._examples, self._steps, self._rows = examples, steps, rows
        self._buckets, self._seed, self._share = buckets, seed, share
        self._planned: tuple[int, list[Planned]] = (-1, [])

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(int(number), self._per_epoch)
        batch = self._epoch(epoch)[place]
        return self._examples.batch(batch.indices[self._share], batch.length, epoch)

    def _epoch(self, epoch: int) -> list[Planned]:
        planned = self._planned  # read once: grain's threads may be in different epochs
        if planned[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            batches = plan(self._examples.lengths, self._rows, self._buckets, random.permutation(self._count()))
            planned = self._planned = (epoch, [batches[i] for i in random.permutation(len(batches))])
        return planned[1]

    def _count(self) -> int:
        return len(self._examples.lengths)


def training(
    examples: Examples,
    *,
    steps: int,
    rows: int,
    buckets: Sequence[int],
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> grain.DatasetIterator:
    """`steps` batches of `rows` examples over as many epochs as that takes; each process gets its share of every batch.

    The iterator's state is its position: it can be saved and set.

    Raises:
      ValueError: the processes do not divide the rows, an example is longer than the last bucket, or the buckets are
        not in order.
    """
    share = _share(rows, process, processes)
    source = grain.MapDataset.source(Run(examples, steps, rows, tuple(buckets), seed, share))
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def evaluation(
    examples: Examples, *, rows: int, buckets: Sequence[int], process: int = 0, processes: int = 1
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(indices, batch) in which every example is once; a batch's shapes are those of training.

    Where indices are fewer than the rows of all processes together, the batch's last rows are there for the shape only:
    they have no label.
    """
    check(examples, buckets)
    share = _share(rows, process, processes)
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        longest = buckets[int(np.searchsorted(buckets, examples.lengths[indices].max()))]
        padded = np.pad(indices, (0, rows - len(indices)), mode="edge")
        batch = examples.batch(padded[share], longest)
        batch["labels"][np.arange(rows)[share] >= len(indices)] = IGNORE
        yield indices, batch


def check(examples: Examples, buckets: Sequence[int]) -> None:
    """Raises ValueError where the buckets are not in order, or an example is longer than the last one."""
    if not buckets or list(buckets) != sorted(set(buckets)):
        raise ValueError(f"data.buckets are lengths in tokens, each longer than the one before; got {buckets}")
    longest = int(examples.lengths.max())
    if longest > buckets[-1]:
        raise ValueError(f"an example has {longest} tokens, and the last of data.buckets is {buckets[-1]}")


def _share(rows: int, process: int, processes: int) -> slice:
    if rows % processes:
        raise ValueError(f"batch_size={rows} does not divide among {processes} processes")
    share = rows // processes
    return slice(process * share, (process + 1) * share)
