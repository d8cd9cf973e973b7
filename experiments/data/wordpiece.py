"""A WordPiece vocabulary trained on the passages, in the files that BERT's tokenizer reads."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

import jaxmodels as jm

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train(texts: Iterable[str], vocab_size: int, folder: Path, model_max_length: int) -> None:
    """Writes what `jm.load_tokenizer(folder)` reads, all of it or nothing; an uncased vocabulary with [PAD] as id 0."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer.model.save(str(draft))
    bert = jm.DPRContextEncoderTokenizer(vocab_file=draft / "vocab.txt", model_max_length=model_max_length)
    bert.save_pretrained(draft)
    draft.rename(folder)
