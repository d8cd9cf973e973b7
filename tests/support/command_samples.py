"""Tiny checkpoints with tokenizers, and how a command is run on them."""

from pathlib import Path

import jax
import tokenizers
from support.tiny import random_params
from tokenizers import decoders, models, pre_tokenizers, trainers

import jaxmodels as jm
from experiments.data import bpe
from jaxmodels.__main__ import main

TEXTS = [
    "the harbour of the town was built by those who had come over the sea — é",
    "a letter came for the captain",
] * 3
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
SIZES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.5}


def gpt2(folder: Path) -> Path:
    tokenizer = _bpe(folder, bpe.GPT2)
    config = jm.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _save(folder, jm.GPT2LMHeadModel(config))


def bart(folder: Path) -> Path:
    tokenizer = _bpe(folder, bpe.Family(jm.BartTokenizer, bpe.ROBERTA.special))
    config = jm.BartConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **_ids(tokenizer), **SIZES)
    return _save(folder, jm.BartForConditionalGeneration(config))


def led(folder: Path) -> Path:
    tokenizer = _bpe(folder, bpe.Family(jm.LEDTokenizer, bpe.ROBERTA.special))
    config = jm.LEDConfig(
        vocab_size=len(tokenizer), attention_window=4, max_encoder_position_embeddings=32,
        max_decoder_position_embeddings=16, **_ids(tokenizer), **SIZES,
    )  # fmt: skip
    return _save(folder, jm.LEDForConditionalGeneration(config))


def t5(folder: Path) -> Path:
    unigram = tokenizers.Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    unigram.train_from_iterator(TEXTS, trainer)
    folder.mkdir()
    unigram.save(str(folder / "tokenizer.json"))
    tokenizer = jm.T5Tokenizer(tokenizer_file=folder / "tokenizer.json", extra_ids=0)
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return _save(folder, jm.T5ForConditionalGeneration(jm.T5Config(vocab_size=len(tokenizer), **sizes)))


def run(capsys, *arguments) -> tuple[int, str, str]:
    """The command's status, and what it wrote to standard output and standard error."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def rows(printed: str) -> dict[str, str]:
    """The first word (or words) of each line -> the rest; of several lines of one name the last."""
    parts = [
        line.strip().split("  ", 1) if "  " in line.strip() else line.split(" ", 1) for line in printed.splitlines()
    ]
    return {name: rest.strip() for name, rest in parts}


def _bpe(folder: Path, family: bpe.Family):
    bpe.save(bpe.train(TEXTS, 280, family), folder, 64, family)
    return jm.load_tokenizer(folder, cls=family.cls)


def _ids(tokenizer) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")} | {
        "decoder_start_token_id": tokenizer.eos_token_id
    }


def _save(folder: Path, model) -> Path:
    # Large numbers, so that what is written depends on what was read.
    jm.save(folder, model, jax.tree.map(lambda leaf: 6 * leaf, random_params(model)))
    return folder
