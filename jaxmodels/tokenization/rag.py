"""RAG's two tokenizers in one (reference: transformers/models/rag/tokenization_rag.py; docs/parity.md, A18)."""

import os
from pathlib import Path
from typing import Self

from jaxmodels.names import refuse_foreign
from jaxmodels.tokenization import families, folders, refusals
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.encoding import BatchEncoding

FOLDERS = ("question_encoder_tokenizer", "generator_tokenizer")


class RagTokenizer:
    """Questions are encoded by the question encoder's tokenizer; answers are encoded and decoded by the generator's."""

    def __init__(self, question_encoder: Tokenizer, generator: Tokenizer):
        for part, tokenizer in (("question_encoder", question_encoder), ("generator", generator)):
            if not isinstance(tokenizer, Tokenizer):
                raise TypeError(f"{part} must be a tokenizer of this library, got {type(tokenizer).__name__}")
        self.question_encoder, self.generator = question_encoder, generator

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike, *, subfolder: str | None = None, **options) -> Self:
        """From the two sub-folders of a folder or a Hub id, with `options` for both; see `jm.load_tokenizer`."""
        hub, options = folders.hub_options(options)
        folder = folders.find(name_or_folder, cls.patterns(), subfolder, hub)
        missing = [name for name in FOLDERS if not (folder / name).is_dir()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}, so it is no folder of a RagTokenizer")
        parts = [folder / name for name in FOLDERS]
        return cls(*(folders.load(part, families.of_folder, options) for part in parts))

    @staticmethod
    def patterns() -> list[str]:
        """The files that it is made of."""
        return [f"{folder}/{name}" for folder in FOLDERS for name in folders.patterns(families.TOKENIZERS.values())]

    def save_pretrained(self, save_directory: str | os.PathLike, **foreign) -> tuple[str, ...]:
        """Writes both, each into its sub-folder; -> the paths."""
        refuse_foreign("save_pretrained() has no option", foreign, (), refusals.SAVE)
        parts = zip(FOLDERS, (self.question_encoder, self.generator), strict=True)
        return tuple(path for name, part in parts for path in part.save_pretrained(Path(save_directory) / name))

    def __call__(self, text=None, text_pair=None, *, text_target=None, **options) -> BatchEncoding:
        """Encodes questions; `text_target`, the answers, become `labels`. See `Tokenizer` for the options."""
        if text is None:
            return self.generator(text_target, **options)
        encoded = self.question_encoder(text, text_pair, **options)
        if text_target is not None:
            encoded["labels"] = self.generator(text_target, **options)["input_ids"]
        return encoded

    def decode(self, token_ids, *arguments, **options) -> str:
        """An answer's text; arguments as `Tokenizer.decode`."""
        return self.generator.decode(token_ids, *arguments, **options)

    def batch_decode(self, sequences, *arguments, **options) -> list[str]:
        """The texts of several answers; arguments as `Tokenizer.batch_decode`."""
        return self.generator.batch_decode(sequences, *arguments, **options)

    def __getattr__(self, name: str):
        raise refusals.missing("RagTokenizer", name, ["question_encoder", "generator", *dir(type(self))])


def is_rag(folder: Path) -> bool:
    """Whether a folder holds RAG's two tokenizers and none of its own."""
    own = folders.patterns(families.TOKENIZERS.values())
    there = any((folder / name).is_file() for name in own if name != folders.MODEL_CONFIG)
    return not there and all((folder / name).is_dir() for name in FOLDERS)
