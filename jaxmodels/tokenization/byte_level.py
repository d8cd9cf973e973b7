"""Byte-level BPE: the vocabulary of GPT-2, RoBERTa, BART and LED, in which every byte is a visible character."""

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxmodels import download
from jaxmodels.tokenization import library
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.tokenization.decoding import as_strings
from jaxmodels.tokenization.settings import check
from jaxmodels.tokenization.special_tokens import content
from jaxmodels.tokenization.tokenizer_json import read_tokenizer_json
from jaxmodels.tokenization.vocabulary import check_ids


def byte_characters() -> dict[str, int]:
    """{character: byte}: printable Latin-1 characters stand for their own byte, U+0100 and on for the other bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(own.values()))
    return own | dict(zip(alphabet[len(own) :], others, strict=True))


BYTES = byte_characters()


def read_backend(vocab_file, merges_file, tokenizer_file, unk_token) -> tokenizers.Tokenizer:
    """The library's tokenizer from vocabulary and merges, without a post-processor, or from a tokenizer.json.

    unk_token stands for bytes that a vocabulary lacks; where the vocabulary lacks it, too, such bytes vanish. (So it is
    in the reference's slow tokenizer; its fast one drops the bytes in any case.)
    """
    given = [name is not None for name in (tokenizer_file, vocab_file, merges_file)]
    if given not in ([True, False, False], [False, True, True]):
        raise ValueError("give tokenizer_file alone, or vocab_file and merges_file")
    for path in (tokenizer_file, vocab_file, merges_file):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
    if tokenizer_file is not None:
        return read_tokenizer_json(tokenizer_file, "byte-level BPE", model="BPE", decoder="ByteLevel")
    # the library leaves out what is no number and wraps what is beyond its integers
    check_ids(vocab_file, download.read_json(Path(vocab_file)))
    with library.errors(f"{vocab_file} and {merges_file} do not make a byte-level BPE"):
        model = models.BPE.from_file(str(vocab_file), str(merges_file))
    if unk_token is not None:
        unk_token = content(unk_token)
        if model.token_to_id(unk_token) is not None:
            model.unk_token = unk_token
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


class ByteLevelTokenizer(Tokenizer):
    """What the byte-level families share.

    errors: what decoding does with bytes that are not UTF-8, such as half a character at the end of a generation:
      "replace" (U+FFFD), "ignore", "strict" (UnicodeDecodeError), or what else `bytes.decode` takes.
    add_prefix_space: put a space before a text that does not start with one, so that its first word is one like others.
      (The reference's slow tokenizer puts one before a space, too; its fast one and this one do not.)
    """

    VOCABULARY_FILES: ClassVar = {
        "vocab_file": ("vocab.json", "encoder.json"),
        "merges_file": ("merges.txt", "vocab.bpe"),
    }
    OPTIONS = ("errors", "add_prefix_space")

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        /,
        *,
        errors: str,
        add_prefix_space: bool,
        **common,
    ):
        self.errors = check("errors", errors)
        self._add_prefix_space = check("add_prefix_space", add_prefix_space)
        _set_prefix_space(backend, self._add_prefix_space)
        super().__init__(backend, **common)

    @property
    def add_prefix_space(self) -> bool:
        return self._add_prefix_space

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text that tokens stand for; `errors` rules where their bytes are not UTF-8."""
        # added tokens are text: their characters do not stand for bytes
        added = self.get_added_vocab()
        parts = [token.encode() if token in added else _token_bytes(token) for token in as_strings(tokens)]
        return b"".join(parts).decode(errors=self.errors)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json and merges.txt, with "prefix-" before their names; -> their paths."""
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"save_vocabulary needs a folder that is there, got {save_directory}")
        return tuple(self._backend.model.save(str(save_directory), filename_prefix))

    def _check_words(self):
        if not self.add_prefix_space:
            raise ValueError(
                "is_split_into_words=True needs a tokenizer with add_prefix_space=True, since words are encoded with "
                "the space before them: jm.load_tokenizer(folder, add_prefix_space=True)"
            )


@functools.lru_cache(maxsize=100_000)
def _token_bytes(token: str) -> bytes:
    try:
        return bytes([BYTES[character] for character in token])
    except KeyError:  # ordinary text, which the library's decoder keeps, too
        return token.encode()


def _set_prefix_space(backend: tokenizers.Tokenizer, add_prefix_space: bool):
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer.add_prefix_space = add_prefix_space
        return
    state = json.loads(backend.to_str())["pre_tokenizer"] or {}
    for part in state.get("pretokenizers", []):
        if part["type"] == "ByteLevel" and part["add_prefix_space"] != add_prefix_space:
            raise ValueError(
                f"add_prefix_space={add_prefix_space} contradicts this tokenizer.json, whose pre-tokenizer is a "
                f"sequence with add_prefix_space={part['add_prefix_space']}"
            )
