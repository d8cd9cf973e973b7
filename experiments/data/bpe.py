"""Train a byte-level BPE vocabulary and save it for the tokenizers of GPT-2 or RoBERTa."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import jaxmodels as jm
from jaxmodels.tokenization.base import Tokenizer

from ..files import atomic_folder

END = "<|endoftext|>"


class Family(NamedTuple):
    """The class of a tokenizer, and its special tokens in the order of their ids."""

    cls: type
    special: tuple[str, ...]


GPT2 = Family(jm.GPT2Tokenizer, (END,))
ROBERTA = Family(jm.RobertaTokenizer, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))


def train(texts: Iterable[str], vocab_size: int, family: Family = GPT2) -> tokenizers.Tokenizer:
    """Train the merges (Radford et al. 2019, section 2.2). The special tokens get the first ids.

    Raises:
      ValueError: The vocabulary is too small for the 256 bytes and the special tokens.
    """
    smallest = 256 + len(family.special)
    if vocab_size < smallest:
        raise ValueError(
            f"tokenizer.vocab_size is at least {smallest} (the bytes and {' '.join(family.special)}), got {vocab_size}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Sorted, because the order of the library's set of bytes differs between processes, and would change the ids.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(family.special),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: Path, model_max_length: int, family: Family = GPT2) -> None:
    """Write a tokenizer folder for `jm.load_tokenizer` atomically."""
    with atomic_folder(folder) as draft:
        tokenizer.model.save(str(draft))
        wrapped = family.cls(
            vocab_file=draft / "vocab.json",
            merges_file=draft / "merges.txt",
            model_max_length=model_max_length,
            clean_up_tokenization_spaces=False,  # would remove spaces, which breaks source code
        )
        wrapped.save_pretrained(draft)


def is_saved(folder: Path) -> bool:
    """Return whether `save` has written the folder."""
    return folder.is_dir()


def token_bytes(tokenizer: jm.GPT2Tokenizer | jm.RobertaTokenizer) -> np.ndarray:
    """Return the number of bytes that each token represents, int32 [V]; 0 for special tokens."""
    lengths, special = np.zeros(len(tokenizer), np.int32), set(tokenizer.all_special_tokens)
    for token, index in tokenizer.get_vocab().items():
        # In a byte-level vocabulary, each character of a token represents one byte.
        lengths[index] = 0 if token in special else len(token)
    return lengths


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """Return the id of a special token: "bos", "eos", "pad", ..."""
    number = getattr(tokenizer, f"{name}_token_id")
    if number is None:
        raise ValueError(f"expected a tokenizer with a {name} token, got {type(tokenizer).__name__} without one")
    return number
