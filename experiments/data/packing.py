"""The corpus as token files on disk: written once, whole or not at all, and mapped into memory after that."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import jaxmodels as jm
from experiments.data.bpe import token_bytes
from experiments.data.corpus import Document, held_out
from experiments.files import whole_folder

Tokenizer = jm.GPT2Tokenizer | jm.RobertaTokenizer

SPLITS = ("train", "validation")
_AT_ONCE = 4_000_000  # characters that are encoded together


@dataclass(frozen=True)
class Split:
    """One side of the corpus.

    Attributes:
      tokens: [n], each document behind an end-of-text token (eos_token); mapped, not read.
      bytes: length of the documents' text in UTF-8, without the end-of-text tokens.
      documents: how many.
    """

    tokens: np.ndarray
    bytes: int
    documents: int


def pack(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path, fraction: float) -> None:
    """Writes train.bin and validation.bin (ids in the smallest unsigned type), the validation text and their counts.

    Args:
      fraction: share of the groups that is held out.

    Raises:
      ValueError: one of the sides is empty, or the tokenizer loses text (then bits per byte would mean nothing).
    """
    with whole_folder(folder) as draft:
        _write(documents, tokenizer, draft, fraction)


def _write(documents: Iterable[Document], tokenizer: Tokenizer, folder: Path, fraction: float) -> None:
    dtype, widths = np.min_scalar_type(len(tokenizer) - 1), token_bytes(tokenizer)
    counts = {name: {"tokens": 0, "bytes": 0, "documents": 0} for name in SPLITS}
    with (
        open(folder / "train.bin", "wb") as train,
        open(folder / "validation.bin", "wb") as validation,
        open(folder / "validation.txt", "wb") as text,
    ):
        for batch in _batches(documents):
            for document, ids in zip(batch, _encode(tokenizer, batch), strict=True):
                split = SPLITS[held_out(document.group, fraction)]
                content = document.text.encode()
                if widths[ids].sum() != len(content):
                    raise ValueError(f"the tokenizer does not keep the text of {document.group!r} byte for byte")
                (train if split == "train" else validation).write(ids.astype(dtype).tobytes())
                if split == "validation":
                    text.write(content)
                for name, count in (("tokens", len(ids)), ("bytes", len(content)), ("documents", 1)):
                    counts[split][name] += count
    for name in SPLITS:
        if not counts[name]["documents"]:
            raise ValueError(f"data.held_out={fraction} leaves no document for {name}; the corpus has {counts}")
    (folder / "counts.json").write_text(json.dumps({"dtype": dtype.name, **counts}))


def is_packed(folder: Path) -> bool:
    return folder.is_dir()


def unpack(folder: Path) -> tuple[Split, Split]:
    """Training and validation, as `pack` has written them."""
    counts = json.loads((folder / "counts.json").read_text())
    dtype = np.dtype(counts["dtype"])

    def split(name):
        tokens = np.memmap(folder / f"{name}.bin", dtype, "r", shape=(counts[name]["tokens"],))
        return Split(tokens, counts[name]["bytes"], counts[name]["documents"])

    return split("train"), split("validation")


def validation_text(folder: Path) -> bytes:
    """The held-out documents one after the other, as a compressor reads them."""
    return (folder / "validation.txt").read_bytes()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size > _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, batch: list[Document]) -> Iterator[np.ndarray]:
    """Ids of each document behind an end-of-text token, int32 [T]."""
    rows = tokenizer([document.text for document in batch], add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    return (np.concatenate([[tokenizer.eos_token_id], row]).astype(np.int32) for row in rows)
