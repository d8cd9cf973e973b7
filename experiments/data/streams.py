"""Training on rows that are read piece by piece: what is in memory is a chunk, and the position can be saved."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import grain
import numpy as np

from . import tables
from .buckets import BatchPlan, Examples, shuffled
from .tables import Source, Table


class Stream:
    """The rows of a source in chunks, again and again.

    A position is saved by the `state_dict` of a `datasets.IterableDataset`; other sources skip rows to continue.
    """

    def __init__(self, source: Source, columns: Mapping[str, str], size: int):
        """Open the source.

        Args:
          source: As for `tables.read`.
          columns: As for `tables.read`.
          size: Rows of a chunk.

        Raises:
          ValueError: `size` is not positive; and what `tables.read` raises.
        """
        if size < 1:
            raise ValueError(f"data.buffer is a number of rows, at least 1; got {size}")
        self._source, self._columns, self._size = source, columns, size
        self._content = tables.opened(source, streaming=True)
        self._open(epoch=0, rows=0, dataset=None)

    def read(self) -> Table:
        """Return the next chunk, which goes on with the first rows after the last.

        Raises:
          ValueError: There are no rows, or a column is missing. The message gives the location.
        """
        found: list = []
        while len(found) < self._size:
            before = len(found)
            found += islice(self._rows, self._size - len(found))
            self._count += len(found) - before
            if len(found) < self._size:
                if not self._count:
                    raise ValueError(f"{tables.name_of(self._source)} has no rows")
                self._open(self._epoch + 1, rows=0, dataset=None)
        return tables.table(self._source, iter(found), self._class_names, self._columns)

    @property
    def state(self) -> dict[str, Any]:
        """The position, which can be written as JSON."""
        save = getattr(self._data, "state_dict", None)
        return {"epoch": self._epoch, "rows": self._count, "dataset": None if save is None else save()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._open(**state)

    def _open(self, epoch: int, rows: int, dataset: Mapping[str, Any] | None) -> None:
        self._epoch, self._count = epoch, rows
        # A copy, because a data set that was told a position begins there every time.
        self._data = copy.copy(self._content)
        if hasattr(self._data, "set_epoch"):
            self._data.set_epoch(epoch)
        if dataset is not None:
            self._data.load_state_dict(dataset)
        self._rows, self._class_names = tables.rows(self._source, self._data)
        if dataset is None:
            self._rows = islice(self._rows, rows, None)


class StreamedBatches(grain.IterDataset):
    """Batches of a stream: each chunk is shuffled, and its examples are batched by length."""

    def __init__(
        self,
        stream: Stream,
        encode: Callable[[Table], Examples],
        *,
        batch_size: int,
        buckets: Sequence[int],
        seed: int,
        rows: np.ndarray | None,
    ):
        """Create the data set; its iterators read the same stream, so there is one of them at a time.

        Args:
          stream: At the position of the first batch.
          encode: Tokenizes a chunk.
          batch_size: Examples of a batch, of all processes together.
          buckets: Lengths in tokens.
          seed: Random seed.
          rows: Rows of each batch that this process loads; None for all.
        """
        super().__init__()
        self.stream, self.encode, self.seed = stream, encode, seed
        self.batch_size, self.buckets = batch_size, buckets
        self.rows = slice(None) if rows is None else rows

    def __iter__(self) -> "StreamIterator":
        return StreamIterator(self)


class StreamIterator(grain.DatasetIterator):
    """The position is that of the stream before the current chunk, and the number of batches taken of the chunk."""

    def __init__(self, batches: StreamedBatches):
        super().__init__()
        self._batches, self._chunk, self._taken = batches, -1, 0
        self._start = batches.stream.state
        self._examples: Examples | None = None
        self._plan: Iterator[BatchPlan] = iter(())

    def __next__(self) -> dict[str, np.ndarray]:
        planned = next(self._plan, None)
        if planned is None:
            self._start = self._batches.stream.state
            self._read(self._chunk + 1)
            planned = next(self._plan)
        self._taken += 1
        assert self._examples is not None
        return self._examples.batch(planned.indices[self._batches.rows], planned.length, self._chunk)

    def get_state(self) -> dict[str, Any]:
        return {"stream": self._start, "chunk": self._chunk, "taken": self._taken}

    def set_state(self, state: dict[str, Any]) -> None:
        self._start = self._batches.stream.state = state["stream"]
        self._chunk, self._taken, self._plan = state["chunk"], 0, iter(())
        if state["chunk"] >= 0:
            self._read(state["chunk"])
            self._taken = state["taken"]
            self._plan = islice(self._plan, self._taken, None)

    def _read(self, chunk: int) -> None:
        """Read the chunk at the position of the stream, and plan its batches."""
        of = self._batches
        self._chunk, self._taken = chunk, 0
        self._examples = of.encode(of.stream.read())
        plan = shuffled(self._examples, of.batch_size, of.buckets, np.random.default_rng([of.seed, chunk]))
        if not plan:
            raise ValueError(
                f"the rows of data.buffer are {len(self._examples.lengths)} examples, fewer than "
                f"batch_size={of.batch_size}; set a larger --config.data.buffer"
            )
        self._plan = iter(plan)
