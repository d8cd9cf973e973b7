"""Train a WordPiece vocabulary and save it for the tokenizer of BERT."""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

import jaxmodels as jm

from ..files import atomic_folder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train(texts: Iterable[str], vocab_size: int, folder: Path, model_max_length: int) -> None:
    """Train an uncased vocabulary, with [PAD] as id 0, and write a folder for `jm.load_tokenizer` atomically.

    Raises:
      ValueError: vocab_size is too small for the letters.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    # The library numbers letters inside words in an order that differs between processes, which would change the order
    # of merges of equally frequent pairs. Tokens that are listed as special have fixed numbers.
    letters = sorted({f"##{letter}" for word in set(words) for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *letters],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    if (size := tokenizer.get_vocab_size()) > vocab_size:
        raise ValueError(f"tokenizer.vocab_size={vocab_size} is too small: the letters alone need {size}")
    with atomic_folder(folder) as draft:
        tokenizer.model.save(str(draft))
        bert = jm.DPRContextEncoderTokenizer(vocab_file=draft / "vocab.txt", model_max_length=model_max_length)
        bert.save_pretrained(draft)
