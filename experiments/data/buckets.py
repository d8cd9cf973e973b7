"""Batches of examples of similar length in few static shapes: one compilation per bucket and little padding."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from .batches import IGNORE

# Values that the losses ignore: a class, and a position beyond any sequence.
IGNORED = {"labels": IGNORE, "start_positions": 2**31 - 1, "end_positions": 2**31 - 1}


class Examples(Protocol):
    """Examples that can be batched."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens in each example, int [n]."""

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return arrays [len(indices), ...] padded to `length`, among them one or more of `IGNORED`."""


class BatchPlan(NamedTuple):
    """The examples of a batch, and its length in tokens."""

    indices: np.ndarray
    length: int


def plan(lengths: np.ndarray, batch_size: int, buckets: Sequence[int], order: np.ndarray) -> list[BatchPlan]:
    """Divide examples into full batches of `batch_size`, each from the shortest possible bucket, in the given order.

    Examples that do not fill a batch move to the next bucket; those left in the last bucket are dropped. So there are
    always len(order) // batch_size batches.
    """
    bucket_of = np.searchsorted(buckets, lengths[order])
    batches: list[BatchPlan] = []
    rest = order[:0]
    for number, length in enumerate(buckets):
        candidates = np.concatenate([rest, order[bucket_of == number]])
        full = len(candidates) - len(candidates) % batch_size
        batches += [BatchPlan(indices, length) for indices in candidates[:full].reshape(-1, batch_size)]
        rest = candidates[full:]
    return batches


def shuffled(
    examples: Examples, batch_size: int, buckets: Sequence[int], random: np.random.Generator
) -> list[BatchPlan]:
    """Plan batches of all examples: shuffle the examples, and then the batches."""
    batches = plan(examples.lengths, batch_size, buckets, random.permutation(len(examples.lengths)))
    return [batches[index] for index in random.permutation(len(batches))]


class TrainingBatches:
    """The batches of a training run, as a random-access data source for grain: batch i depends on i and the seed only.

    Each epoch shuffles the examples and then the batches.
    """

    def __init__(
        self,
        examples: Examples,
        steps: int,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        rows: np.ndarray | None,
    ):
        check(examples, buckets)
        self._per_epoch = len(examples.lengths) // batch_size
        if not self._per_epoch:
            raise ValueError(f"batch_size={batch_size} is more than the number of examples, {len(examples.lengths)}")
        self._examples, self._steps, self._batch_size = examples, steps, batch_size
        self._buckets, self._seed, self._rows = buckets, seed, slice(None) if rows is None else rows
        self._planned: tuple[int, list[BatchPlan]] = (-1, [])

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        epoch, index = divmod(int(number), self._per_epoch)
        batch = self._epoch(epoch)[index]
        return self._examples.batch(batch.indices[self._rows], batch.length, epoch)

    def _epoch(self, epoch: int) -> list[BatchPlan]:
        planned = self._planned  # read once: the threads of grain may be in different epochs
        if planned[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            batches = shuffled(self._examples, self._batch_size, self._buckets, random)
            planned = self._planned = (epoch, batches)
        return planned[1]


def training(
    examples: Examples,
    *,
    steps: int,
    batch_size: int,
    buckets: Sequence[int],
    seed: int,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Iterate over `steps` batches of `batch_size` examples, over as many epochs as needed.

    The state of the iterator, the number of the batch, can be saved and restored with any `rows`, the rows of each
    batch that this process loads.

    Raises:
      ValueError: an example is longer than the last bucket, or
        the buckets are not in ascending order.
    """
    source = grain.MapDataset.source(TrainingBatches(examples, steps, batch_size, tuple(buckets), seed, rows))
    return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def evaluation(
    examples: Examples, *, batch_size: int, buckets: Sequence[int], rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Iterate over (indices, batch), with every example exactly once, in batches of the same shapes as for training.

    If there are fewer indices than batch_size, the last examples of the batch are padding, without labels: the values
    of IGNORED, or NaN in labels that are floating-point numbers.
    """
    check(examples, buckets)
    own = slice(None) if rows is None else rows
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        longest = buckets[int(np.searchsorted(buckets, examples.lengths[indices].max()))]
        padded = np.pad(indices, (0, batch_size - len(indices)), mode="edge")
        batch = examples.batch(padded[own], longest)
        for name in IGNORED.keys() & batch.keys():
            array = batch[name]
            unlabelled = np.nan if np.issubdtype(array.dtype, np.floating) else IGNORED[name]
            array[np.arange(batch_size)[own] >= len(indices)] = unlabelled
        yield indices, batch


def cover(examples: Examples, longest: int) -> tuple[int, ...]:
    """Return buckets for the examples: powers of two from 16 up to the first that suffices, but at most `longest`."""
    return up_to(int(examples.lengths.max()), longest)


def up_to(needed: int, longest: int) -> tuple[int, ...]:
    """Return buckets for examples of at most `needed` tokens: powers of two from 16, but at most `longest`."""
    powers = [2**power for power in range(4, 31)]
    return tuple(
        min(power, longest)
        for before, power in zip([0, *powers], powers, strict=False)
        if before < min(needed, longest)
    )


def check(examples: Examples, buckets: Sequence[int]) -> None:
    """Raise ValueError if the buckets are not in ascending order, or an example is longer than the last one."""
    if not buckets or list(buckets) != sorted(set(buckets)):
        raise ValueError(f"data.buckets are lengths in tokens in ascending order; got {buckets}")
    longest = int(examples.lengths.max())
    if longest > buckets[-1]:
        raise ValueError(f"an example has {longest} tokens, but the last of data.buckets is {buckets[-1]}")


class LabelledTexts:
    """Tokenized texts with labels, as `Examples`.

    Attributes:
      lengths: Number of tokens in each text, int [n]; of several choices, in the longest one.
    """

    def __init__(self, fields: Mapping[str, Sequence[Any] | np.ndarray], pad: int, *, target: int | None = None):
        """Create examples.

        Args:
          fields: The model's arguments, unpadded: input_ids, optionally token_type_ids, and such as labels. A row is a
            number, a list over tokens, or a list of lists over choices and tokens, the same number in each row; an
            array of floating-point numbers [n, ...] is not padded.
          pad: Id of the padding token.
          target: Number of columns of the labels, where they are the output of an encoder-decoder; None for as many as
            there are of the input.
        """
        mask = [_ones(row) for row in fields["input_ids"]]
        self._fields: dict[str, Sequence[Any] | np.ndarray] = {**fields, "attention_mask": mask}
        self._padding, self._target = {"input_ids": pad, **IGNORED}, target
        self.lengths = np.array([max(map(len, row)) if _is_nested(row) else len(row) for row in fields["input_ids"]])

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return the fields and attention_mask as int32 [B], [B,length] or [B,choices,length], padded on the right."""
        return {name: self._rows(name, indices, length) for name in self._fields}

    def _rows(self, name: str, indices: np.ndarray, length: int) -> np.ndarray:
        values = self._fields[name]
        if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating):
            return values[indices]
        width = self._target if name == "labels" and self._target else length
        return _padded([values[index] for index in indices], width, self._padding.get(name, 0))


def _padded(rows: Sequence[Any], length: int, value: int) -> np.ndarray:
    """Return numbers as int32 [N]; pad sequences on the right to [N,length], and lists of sequences to [N,C,length]."""
    if not hasattr(rows[0], "__len__"):
        return np.asarray(rows, np.int32)
    if _is_nested(rows[0]):
        return np.stack([_padded(row, length, value) for row in rows])
    out = np.full((len(rows), length), value, np.int32)
    for row, sequence in zip(out, rows, strict=True):
        row[: len(sequence)] = sequence
    return out


def _is_nested(row: Any) -> bool:
    return len(row) > 0 and hasattr(row[0], "__len__")


def _ones(row: Any) -> list[Any]:
    return [_ones(part) for part in row] if _is_nested(row) else [1] * len(row)
