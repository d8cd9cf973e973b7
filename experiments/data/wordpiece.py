"""A WordPiece vocabulary trained on the passages, in the files that BERT's tokenizer reads."""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

import jaxmodels as jm
from experiments.files import whole_folder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train(texts: Iterable[str], vocab_size: int, folder: Path, model_max_length: int) -> None:
    """Writes what `jm.load_tokenizer(folder)` reads, all of it or nothing; an uncased vocabulary with [PAD] as id 0.

    Raises:
      ValueError: vocab_size leaves no room for the letters.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    # The library numbers the letters inside words in an order that differs between processes, and with it would which
    # of two equally frequent pairs is joined first. Those that are named beforehand keep their number.
    inside = sorted({f"##{letter}" for word in set(words) for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *inside],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    if (size := tokenizer.get_vocab_size()) > vocab_size:
        raise ValueError(f"tokenizer.vocab_size={vocab_size} has no room for the letters alone, which need {size}")
    with whole_folder(folder) as draft:
        tokenizer.model.save(str(draft))
        bert = jm.DPRContextEncoderTokenizer(vocab_file=draft / "vocab.txt", model_max_length=model_max_length)
        bert.save_pretrained(draft)
