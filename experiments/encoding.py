"""Encode a corpus of passages into an index: sources, encoder, parts on disk, and memory per device."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.chips import slice_of
from jaxmodels.retrieval import fingerprint
from jaxmodels.retrieval.importers import read_passages_tsv
from jaxmodels.retrieval.index_files import write_shard
from jaxmodels.retrieval.rows import (
    DTYPES,
    EncodedRows,
    encode_rows,
    make_layout,
    validate_dtype,
    validate_embeddings,
)
from jaxmodels.tensor_files.atomic_save import atomic_save
from jaxmodels.training import place

from .batch_generation.journal import Journal, hash_file
from .data import corpus, retrieval
from .loop import Sharding

BUCKET = 32  # sequence lengths are rounded up to multiples of this; each length is compiled once
Tokens = dict[str, np.ndarray]


class Encoder:
    """A DPR context encoder with its tokenizer, on the local devices.

    Attributes:
      context_fingerprint: Fingerprint of the context encoder.
      fingerprint: Fingerprint that identifies the index: that of the question encoder if there is one, else that of the
        context encoder.
      width: Width of the vectors.
    """

    def __init__(self, config: FrozenConfigDict):
        self._batch_size, self._length, self._dtype = config.rows, config.length, validate_dtype(config.index_dtype)
        mesh = jm.sharding.make_mesh({"data": -1}, jax.local_devices())
        self._sharding: Sharding = {"mesh": mesh, "rules": jm.sharding.DP}
        dtypes: dict[str, Any] = {"dtype": config.dtype, "param_dtype": config.dtype}
        self._model, self._params = jm.load(config.encoder, cls=jm.DPRContextEncoder, **dtypes, **self._sharding)
        self._tokenizer = jm.load_tokenizer(config.encoder, jm.DPRContextEncoderTokenizer)
        self.context_fingerprint = fingerprint(self._model, self._params)
        self.width = self._model.config.projection_dim or self._model.config.hidden_size
        self.fingerprint = self.context_fingerprint
        if config.question_encoder:
            self.fingerprint = fingerprint(*jm.load(config.question_encoder, cls=jm.DPRQuestionEncoder))

    def tokenize(self, passages: Sequence[tuple[str, str]]) -> Tokens:
        """Tokenize (title, text) pairs to [CLS] title [SEP] text [SEP], truncated to the length of the config."""
        titles, texts = map(list, zip(*passages, strict=True))
        options = {"padding": "max_length", "truncation": True, "max_length": self._length}
        return dict(self._tokenizer(titles, texts, **options))

    def encode(self, tokens: Tokens, done: Callable[[int], object]) -> EncodedRows:
        """Encode passages to rows of an index; the result depends on these passages only.

        Args:
          tokens: Output of `tokenize`.
          done: Called after each batch with the number of passages in it.
        """
        vectors = np.empty((len(tokens["input_ids"]), self.width), np.float32)
        pending: tuple[np.ndarray, jax.Array] | None = None
        for indices, width in jm.length_batches(
            tokens["attention_mask"].sum(axis=1), self._batch_size, multiple=BUCKET
        ):
            full = np.resize(indices, self._batch_size)  # pads the last batch by repeating its passages
            batch = {name: array[full, : min(width, self._length)] for name, array in tokens.items()}
            with jm.sharding.use(**self._sharding):
                found = _vectors(self._model, self._params, place(batch, **self._sharding))
            # The previous batch is fetched while this one is computed.
            _fetch(vectors, pending, done)
            pending = indices, found
        _fetch(vectors, pending, done)
        return encode_rows(validate_embeddings(vectors), self._dtype)


@partial(jax.jit, static_argnums=0)
def _vectors(model: jm.DPRContextEncoder, params: dict, batch: dict[str, Any]) -> jax.Array:
    out: Any = model.apply({"params": params}, **batch)
    return out.pooler_output.astype(jnp.float32)


def _fetch(vectors: np.ndarray, pending: tuple[np.ndarray, jax.Array] | None, done: Callable[[int], object]) -> None:
    """Copy the vectors of a batch from the devices into `vectors`."""
    if pending is not None:
        indices, found = pending
        vectors[indices] = np.asarray(found)[: len(indices)]
        done(len(indices))


FILE = "embeddings.safetensors"


class Parts:
    """The encoded parts of a corpus on disk, and a journal of them; a context manager.

    Several processes may write different parts at the same time.
    """

    def __init__(self, folder: Path, sizes: Sequence[int], process: int):
        """Open the journal of this process.

        Args:
          folder: Where the parts are.
          sizes: Number of passages in each part.
          process: Index of this process.

        Raises:
          ValueError: Another process is writing this journal.
        """
        self._folder, self._sizes = folder, sizes
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / f"finished-{process:05}.jsonl")

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)

    def path(self, number: int) -> Path:
        """Return the path of a part."""
        return self._folder / f"{number:05}" / FILE

    def missing(self) -> list[int]:
        """Return the parts that no process has finished, or whose files do not match the journal.

        All processes have to call this before any of them writes.
        """
        entries: dict[int, dict] = {}
        for journal in sorted(self._folder.glob("finished-*.jsonl")):
            for line in journal.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # a kill may have truncated the last line
                    entry = json.loads(line)
                    entries[entry["id"]] = entry
        return [number for number in range(len(self._sizes)) if not self._is_whole(number, entries.get(number))]

    def add(self, number: int, rows: EncodedRows) -> None:
        """Write a part, then its line of the journal. If killed in between, the same part is written again."""
        if len(rows[0]) != self._sizes[number]:
            raise ValueError(f"part {number} has {self._sizes[number]} rows, got {len(rows[0])}")
        path = self.path(number)
        with atomic_save(path.parent, "rows") as staging:
            write_shard(staging / FILE, rows)
        entry = {"id": number, "rows": len(rows[0]), "bytes": path.stat().st_size, "sha256": hash_file(path)}
        self._journal.done.discard(number)  # its file was lost or damaged
        self._journal.add([entry])

    def _is_whole(self, number: int, entry: dict | None) -> bool:
        path = self.path(number)
        return (
            entry is not None
            and entry["rows"] == self._sizes[number]
            and path.is_file()
            and path.stat().st_size == entry["bytes"]
            and hash_file(path) == entry["sha256"]
        )


SOURCES = ("tsv", "squad", "nq", "text")


def read_passages(kind: str, path: str, words: int) -> Iterator[tuple[str, str]]:
    """Yield (title, text) in an order that depends on the data only, as a stream where the format allows it.

    Args:
      kind: "tsv": a table with columns id, text and title, also as .tsv.gz. "squad" and "nq": as for the retrieval
        experiments. "text": every UTF-8 file of the folder in blocks of `words` words, titled with the file name.
      path: The file or folder.
      words: Number of words per passage for kind "text".

    Raises:
      ValueError: Unknown kind, or data of another format.
      FileNotFoundError: `path` does not exist.
    """
    if kind not in SOURCES:
        raise ValueError(f"data.kind is one of {', '.join(SOURCES)}; got {kind!r}")
    if kind == "text":
        yield from _blocks(path, words)
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"data.kind is {kind!r}, but there is no file at data.path={path!r}")
    if kind == "tsv":
        yield from ((row.title, row.text) for row in read_passages_tsv(path))
    else:
        yield from {"squad": retrieval.read_squad, "nq": retrieval.read_natural_questions}[kind](Path(path)).passages


def _blocks(path: str, size: int) -> Iterator[tuple[str, str]]:
    """Split texts into disjoint blocks of `size` words, as DPR does (Karpukhin et al. 2020, section 4.1)."""
    if size < 1:
        raise ValueError(f"data.passage_words is at least 1, got {size}")
    for document in corpus.read("text", path):
        words = document.text.split()
        for start in range(0, len(words), size):
            yield Path(document.group).stem, " ".join(words[start : start + size])


WIKIPEDIA = 21_015_300  # number of passages in DPR's psgs_w100.tsv


def bytes_per_device(rows: int, width: int, count: int, dtype: np.dtype) -> int:
    """Return the size of the index arrays on each of `count` devices, including padding and int8 scales."""
    # Only the sizes of the mesh axes are used.
    layout = make_layout(rows, AbstractMesh((count,), ("rows",)), None)  # type: ignore[arg-type]
    return layout.shard_rows * (width * dtype.itemsize + (4 if dtype == np.int8 else 0))


def memory_table(rows: int, width: int, topologies: Sequence[str]) -> str:
    """Tabulate MiB per device by topology and dtype; "too much" means more than the memory of the device."""
    lines = [f"an index of {rows:,} x {width}: MiB per device", f"  {'':10}" + "".join(f"{n:>12}" for n in DTYPES)]
    for topology in topologies:
        (device, count), cells = slice_of(topology), []
        for dtype in DTYPES.values():
            size = bytes_per_device(rows, width, count, dtype)
            cells.append(f"{size / 2**20:,.1f}" if size < device.memory * 2**30 else "too much")
        lines.append(f"  {topology:10}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """Format a duration in days, hours, minutes or seconds."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
