"""A byte-level BPE trained on the corpus, in the files that GPT-2's or RoBERTa's tokenizer reads."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import jaxmodels as jm
from experiments.files import whole_folder

END = "<|endoftext|>"


class Family(NamedTuple):
    """A tokenizer's class, and its special tokens in the order of their ids."""

    cls: type
    special: tuple[str, ...]


GPT2 = Family(jm.GPT2Tokenizer, (END,))
ROBERTA = Family(jm.RobertaTokenizer, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))


def train(texts: Iterable[str], vocab_size: int, family: Family = GPT2) -> tokenizers.Tokenizer:
    """Learns the merges (Radford et al. 2019, section 2.2). The special tokens get the first ids.

    Raises:
      ValueError: a vocabulary without room for the 256 bytes and the special tokens.
    """
    least = 256 + len(family.special)
    if vocab_size < least:
        raise ValueError(
            f"tokenizer.vocab_size is at least {least} (the bytes and {' '.join(family.special)}), got {vocab_size}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Sorted: the library's set of bytes has another order in every process, and with it would every id.
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
    """Writes what `jm.load_tokenizer(folder)` reads, all of it or nothing."""
    with whole_folder(folder) as draft:
        tokenizer.model.save(str(draft))
        ours = family.cls(
            vocab_file=draft / "vocab.json",
            merges_file=draft / "merges.txt",
            model_max_length=model_max_length,
            clean_up_tokenization_spaces=False,  # undoes English spacing, and would break code
        )
        ours.save_pretrained(draft)


def is_saved(folder: Path) -> bool:
    return folder.is_dir()


def token_bytes(tokenizer: jm.GPT2Tokenizer | jm.RobertaTokenizer) -> np.ndarray:
    """Length in bytes of every token's text, int32 [V]; special tokens stand for none."""
    lengths, special = np.zeros(len(tokenizer), np.int32), set(tokenizer.all_special_tokens)
    for token, index in tokenizer.get_vocab().items():
        # In a byte-level vocabulary each character of a token stands for one byte.
        lengths[index] = 0 if token in special else len(token)
    return lengths
