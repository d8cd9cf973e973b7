"""Tokenized corpora on disk: written once, completely or not at all, and memory-mapped after that."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..files import atomic_folder
from . import bpe, corpus

Tokenizer = jm.GPT2Tokenizer | jm.RobertaTokenizer

SPLITS = ("train", "validation")
_BATCH_CHARACTERS = 4_000_000  # characters that are tokenized together


@dataclass(frozen=True)
class Split:
    """The training or validation part of a corpus.

    Attributes:
      tokens: Token ids [n], with an end-of-text token (eos_token) before each document; memory-mapped.
      bytes: Size of the text in UTF-8, without the end-of-text tokens.
      documents: Number of documents.
    """

    tokens: np.ndarray
    bytes: int
    documents: int


def pack(documents: Iterable[corpus.Document], tokenizer: Tokenizer, folder: Path, fraction: float) -> None:
    """Write train.bin and validation.bin (ids in the smallest unsigned dtype), the validation text, and the counts.

    Args:
      documents: The corpus.
      tokenizer: The tokenizer.
      folder: The folder to write.
      fraction: Share of the groups that is held out.

    Raises:
      ValueError: A split is empty, or the tokenizer is lossy, which would invalidate bits per byte.
    """
    with atomic_folder(folder) as draft:
        _write(documents, tokenizer, draft, fraction)


def _write(documents: Iterable[corpus.Document], tokenizer: Tokenizer, folder: Path, fraction: float) -> None:
    dtype, widths = np.min_scalar_type(len(tokenizer) - 1), bpe.token_bytes(tokenizer)
    counts = {name: {"tokens": 0, "bytes": 0, "documents": 0} for name in SPLITS}
    with (
        open(folder / "train.bin", "wb") as train,
        open(folder / "validation.bin", "wb") as validation,
        open(folder / "validation.txt", "wb") as text,
    ):
        for batch in _batches(documents):
            for document, ids in zip(batch, _encode(tokenizer, batch), strict=True):
                split = SPLITS[corpus.held_out(document.group, fraction)]
                content = document.text.encode()
                if widths[ids].sum() != len(content):
                    raise ValueError(f"the tokenizer does not preserve the text of {document.group!r} byte for byte")
                (train if split == "train" else validation).write(ids.astype(dtype).tobytes())
                if split == "validation":
                    text.write(content)
                for name, count in (("tokens", len(ids)), ("bytes", len(content)), ("documents", 1)):
                    counts[split][name] += count
    for name in SPLITS:
        if not counts[name]["documents"]:
            raise ValueError(f"data.held_out={fraction} leaves no documents for {name}; the corpus has {counts}")
    (folder / "counts.json").write_text(json.dumps({"dtype": dtype.name, **counts}))


def is_packed(folder: Path) -> bool:
    """Return whether `pack` has written the folder."""
    return folder.is_dir()


def unpack(folder: Path) -> tuple[Split, Split]:
    """Return the training and validation splits that `pack` has written."""
    counts = json.loads((folder / "counts.json").read_text())
    dtype = np.dtype(counts["dtype"])

    def split(name: str) -> Split:
        tokens = np.memmap(folder / f"{name}.bin", dtype, "r", shape=(counts[name]["tokens"],))
        return Split(tokens, counts[name]["bytes"], counts[name]["documents"])

    return split("train"), split("validation")


def validation_text(folder: Path) -> bytes:
    """Return the concatenated held-out documents, as input for a compressor."""
    return (folder / "validation.txt").read_bytes()


def _batches(documents: Iterable[corpus.Document]) -> Iterator[list[corpus.Document]]:
    batch: list[corpus.Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, batch: list[corpus.Document]) -> Iterator[np.ndarray]:
    """Yield the ids of each document after an end-of-text token, int32 [T]."""
    ids = tokenizer([document.text for document in batch], add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    return (np.concatenate([[tokenizer.eos_token_id], row]).astype(np.int32) for row in ids)


@dataclass(frozen=True)
class Data:
    """Tokenized corpus of an experiment.

    Attributes:
      tokenizer: The tokenizer, as it is saved with the model.
      train: Training split.
      validation: Validation split.
      text: The concatenated held-out documents.
    """

    tokenizer: Tokenizer
    train: Split
    validation: Split
    text: bytes


def prepare(config: FrozenConfigDict, folder: Path, length: int, family: bpe.Family = bpe.GPT2) -> Data:
    """Load the data of a config from `folder`; the first process creates them if they do not exist.

    Args:
      config: The config of the experiment.
      folder: Where tokenizer and tokens are stored.
      length: Maximum number of tokens of the model, for the tokenizer.
      family: Type of tokenizer to train if config.tokenizer.path is not set.
    """
    ready = config.tokenizer.path or folder / "tokenizer"
    if jax.process_index() == 0:
        if not config.tokenizer.path and not bpe.is_saved(ready):
            texts = (document.text for document in corpus.read(**_source(config)))
            bpe.save(bpe.train(texts, config.tokenizer.vocab_size, family), ready, length, family)
        if not is_packed(folder / "data"):
            # Treat special tokens in documents as plain text, and do not limit their length.
            encoder = jm.load_tokenizer(ready, split_special_tokens=True, model_max_length=None)
            pack(corpus.read(**_source(config)), encoder, folder / "data", config.data.held_out)
    multihost_utils.sync_global_devices("data")
    text = validation_text(folder / "data")
    return Data(jm.load_tokenizer(ready), *unpack(folder / "data"), text)


def _source(config: FrozenConfigDict) -> dict[str, str]:
    return {"kind": config.data.kind, "path": config.data.path, "field": config.data.field}
