"""The base class of tasks that fine-tune a checkpoint of any family on tables of examples."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import grain
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures import model_class
from jaxmodels.tokenization import BatchEncoding
from jaxmodels.tokenization.base import Tokenizer

from ..data import tables
from ..data.bpe import token_id
from ..data.buckets import Examples, LabelledTexts
from ..data.corpus import held_out
from ..data.streams import Stream, StreamedBatches
from ..data.tables import Source, Table
from ..loop import Sharding
from ..predict import Predictions
from .common import Scores, Task

SPLITS = ("train", "validation", "test")


class TableTask(Task):
    """Reads the splits, and a tokenizer that fits the checkpoint.

    Attributes:
      usage: A line of Python that uses `model`, `params` and `tokenizer`.
      streams: Whether a part of the training rows can be encoded without the others.
      tables: The rows of each split; without a test set, the validation set is also the test set. To score a trained
        checkpoint, there is a test set only. Of a stream, the training rows are the current chunk.
      checkpoint: The model config of the initial checkpoint.
      max_tokens: Maximum number of tokens of an input.
    """

    usage: ClassVar[str]
    streams: ClassVar[bool] = True

    def __init__(self, config: FrozenConfigDict, folder: Path, data: Mapping[str, Source] | None = None):
        """Load the data; the sources of the splits are those of the config, or `data`."""
        self.config = config
        self._sources = dict(data or {split: config.data[split] for split in SPLITS if config.data[split]})
        if config.data.streaming and not self.streams:
            raise ValueError(f"{config.task} needs all rows at once; set --config.data.streaming=false")
        self.tables = read_splits(config, self._sources)
        self.checkpoint = jm.load_config(config.init)
        model_class(self.model_class, self.checkpoint)  # raises an error if the family has no such head
        self.tokenizer = self.load_tokenizer()
        limit = min(self.checkpoint.max_source_tokens, self.tokenizer.model_max_length)
        self.max_tokens = min(config.max_tokens, limit)
        self.config_fields = {"pad_token_id": token_id(self.tokenizer, "pad"), **self.fields()}
        if self.trains:
            self.train = self.encode("train", self.tokenizer)
            self.dev = self.encode("validation", self.tokenizer)
        self.test = self.encode("test", self.tokenizer) if "test" in self.tables else self.dev

    @classmethod
    def usage_lines(cls, folder: Path) -> list[str]:
        """Return lines of Python that load and use what was saved in a folder."""
        loaded = [f'model, params = jm.load("{folder}")', f'tokenizer = jm.load_tokenizer("{folder}")']
        return [*loaded, cls.usage]

    def load_tokenizer(self, **options: Any) -> Tokenizer:
        """Load the tokenizer of the checkpoint; if it has no padding token, as GPT-2's, its end-of-text token pads.

        Raises:
          ValueError: It has neither token, or more tokens than the checkpoint.
        """
        tokenizer = jm.load_tokenizer(self.config.init, **options)
        if tokenizer.pad_token is None:
            token_id(tokenizer, "eos")
            tokenizer.pad_token = tokenizer.eos_token
        if len(tokenizer) > self.checkpoint.vocab_size:
            raise ValueError(
                f"the tokenizer of {self.config.init} has {len(tokenizer)} tokens, but the model only "
                f"{self.checkpoint.vocab_size}; enlarge the model with jm.resize_token_embeddings, and save it"
            )
        return tokenizer

    def training_batches(self, *, seed: int, steps: int, **shape: Any) -> grain.DatasetIterator:
        if not self.config.data.streaming:
            return super().training_batches(seed=seed, steps=steps, **shape)
        stream = _stream(self.config, self._sources)
        return iter(StreamedBatches(stream, self._encode_chunk, seed=seed, **shape))

    def _encode_chunk(self, table: Table) -> Examples:
        self.tables["train"] = table
        return self.encode("train", self.tokenizer)

    def load(self, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict | None]:
        """Load the checkpoint, or with from_scratch take its config alone."""
        if not config.from_scratch:
            return super().load(config, sharding)
        fields = self.checkpoint.replace(**config.model, **self.config_fields)
        cls = model_class(self.model_class, self.checkpoint)
        options = {"dtype": jnp.dtype(config.dtype), "remat": config.remat, **self.model_options}
        return cls(fields, **options), None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the model config that depend on the data."""
        return {}

    @abstractmethod
    def encode(self, split: str, tokenizer: Tokenizer) -> Examples:
        """Tokenize the rows of a split."""

    @abstractmethod
    def scores(self, split: str, predicted: Predictions) -> Scores:
        """Score predictions on the rows of a split."""

    def dev_scores(self, predicted: Predictions) -> Scores:
        return self.scores("validation", predicted)

    def test_scores(self, predicted: Predictions) -> Scores:
        return self.scores(self.test_split, predicted)

    def encoded_test(self, tokenizer: Tokenizer) -> Examples:
        return self.encode(self.test_split, tokenizer)

    @property
    def trains(self) -> bool:
        """Whether there is a training set; else a trained checkpoint is scored."""
        return "train" in self.tables

    @property
    def first_split(self) -> str:
        """The training split if there is one, else the test split."""
        return "train" if self.trains else "test"

    @property
    def first(self) -> Table:
        """The rows of this split."""
        return self.tables[self.first_split]

    @property
    def test_split(self) -> str:
        """The split that is scored at the end."""
        return "test" if "test" in self.tables else "validation"

    def baselines(self) -> dict[str, Scores]:
        return {}

    def describe(self) -> str:
        return ", ".join(f"{split}: {len(table):,} rows" for split, table in self.tables.items())


def read_splits(config: FrozenConfigDict, sources: Mapping[str, Source]) -> dict[str, Table]:
    """Read the splits; of a training set without a validation set, a share is held out.

    Raises:
      FileNotFoundError, ValueError: See `tables.read`; or data.held_out leaves no rows for a split, or there is no
        validation set beside a stream.
    """
    if unknown := set(sources) - set(SPLITS):
        raise ValueError(f"the splits of the data are {', '.join(SPLITS)}; got {', '.join(sorted(unknown))}")
    is_stream = config.data.streaming and "train" in sources
    if is_stream and "validation" not in sources:
        raise ValueError("no rows are held out of a stream; set --config.data.validation too")

    def read(split: str) -> Table:
        if split == "train" and is_stream:
            return _stream(config, sources).read()
        return tables.read(sources[split], config.columns, config.data.streaming)

    found = {split: read(split) for split in SPLITS if split in sources}
    if "validation" in found or "train" not in found:
        return found
    share, rows = config.data.held_out, range(len(found["train"]))
    validation = [row for row in rows if held_out(str(row), share)]
    if not 0 < len(validation) < len(rows):
        raise ValueError(
            f"data.held_out={share} leaves no rows of {found['train'].source} for training or for validation; set "
            "--config.data.validation to a file, or --config.data.held_out to another share"
        )
    train = sorted(set(rows) - set(validation))
    return {**found, "train": found["train"].select(train), "validation": found["train"].select(validation)}


def _stream(config: FrozenConfigDict, sources: Mapping[str, Source]) -> Stream:
    return Stream(sources["train"], config.columns, config.data.buffer)


def labelled(encoded: BatchEncoding, labels: Mapping[str, Sequence[Any] | np.ndarray], pad: int) -> LabelledTexts:
    """Return tokenized texts with their labels as examples."""
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    return LabelledTexts({**{name: encoded[name] for name in names}, **labels}, pad)


def class_names(task: TableTask, column: str, values: list[Any]) -> list[str]:
    """Return the names of all classes, in the order of their numbers.

    The order is that of the data set if it has one; else that of the checkpoint if it has the same names; else numbers
    by size, and others in alphabetical order. Without a training set, the classes are those of the checkpoint.
    """
    known = list((task.checkpoint.id2label or {}).values())
    if not task.trains:
        defaults = [f"LABEL_{number}" for number in range(task.checkpoint.num_labels or 2)]
        return [str(number) for number in range(len(defaults))] if known in ([], defaults) else known
    train = task.tables["train"]
    if column in train.class_names:
        return list(train.class_names[column])
    names = {str(value) for value in values}
    if names == set(known):
        return known
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def class_number(task: TableTask, value: Any, numbers: dict[str, int], location: str) -> int:
    """Return the number of a class.

    Raises:
      ValueError: Neither the training data nor, without such data, the checkpoint has it.
    """
    if str(value) not in numbers:
        source = "training data" if task.trains else "checkpoint"
        raise ValueError(
            f"{location}: the {source} has no class {value!r:.60}; it has {', '.join(numbers):.200}. Correct the "
            "row, or add rows of this class to the training data"
        )
    return numbers[str(value)]
