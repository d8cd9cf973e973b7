"""RAG's two tokenizers in one (reference: transformers/models/rag/tokenization_rag.py; docs/parity.md, A18)."""

import os
from pathlib import Path
from typing import Self

from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.loading import load_tokenizer

FOLDERS = ("question_encoder_tokenizer", "generator_tokenizer")


class RagTokenizer:
    """Questions are encoded by the question encoder's tokenizer; answers are encoded and decoded by the generator's."""

    def __init__(self, question_encoder: Tokenizer, generator: Tokenizer):
        self.question_encoder, self.generator = question_encoder, generator

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, *, revision: str | None = None) -> Self:
        """From the two sub-folders of a folder or a Hub id; see `load_tokenizer` for what it raises."""
        return cls(*(load_tokenizer(source, revision=revision, subfolder=folder) for folder in FOLDERS))

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes both, each into its sub-folder."""
        for name, tokenizer in zip(FOLDERS, (self.question_encoder, self.generator), strict=True):
            tokenizer.save_pretrained(Path(folder) / name)

    def __call__(self, text=None, text_pair=None, *, text_target=None, **options) -> BatchEncoding:
        """Encodes questions; `text_target`, the answers, become `labels`. See `Tokenizer` for the options."""
        if text is None:
            return self.generator(text_target, **options)
        encoded = self.question_encoder(text, text_pair, **options)
        if text_target is not None:
            encoded["labels"] = self.generator(text_target, **options)["input_ids"]
        return encoded

    def decode(self, ids, **options) -> str:
        """An answer's text."""
        return self.generator.decode(ids, **options)

    def batch_decode(self, rows, **options) -> list[str]:
        """The texts of several answers."""
        return self.generator.batch_decode(rows, **options)
