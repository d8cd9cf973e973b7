"""Tiny models of several types with their tokenizers, and files of prompts for them."""

import json
from collections.abc import Iterable
from pathlib import Path

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import jaxmodels as jm
from experiments.data import bpe

TEXTS = [
    "the harbour of the town was built by those who had come over the sea",
    "a letter came for the captain, and it said that the ship would not sail",
    "in the morning the keeper of the light went down to the water and saw a boat",
] * 4
WORDS = " ".join(TEXTS[:3]).split()
LED = bpe.Family(jm.LEDTokenizer, bpe.ROBERTA.special)
SMALL = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}


def gpt2(folder: Path, seed: int = 0) -> Path:
    tokenizer = _bpe(folder, bpe.GPT2)
    end = tokenizer.eos_token_id
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    config = jm.GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **sizes)
    return _save(folder, jm.GPT2LMHeadModel(config), seed)


def roberta(folder: Path) -> Path:
    tokenizer = _bpe(folder, bpe.ROBERTA)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = jm.RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, is_decoder=True, initializer_range=0.5,
        **_ids(tokenizer), **sizes,
    )  # fmt: skip
    return _save(folder, jm.RobertaPreLayerNormForCausalLM(config))


def led(folder: Path) -> Path:
    tokenizer = _bpe(folder, LED)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = jm.LEDConfig(
        vocab_size=len(tokenizer), attention_window=4, max_encoder_position_embeddings=64, init_std=0.5,
        max_decoder_position_embeddings=16, decoder_start_token_id=tokenizer.eos_token_id, **_ids(tokenizer),
        **SMALL, **heads,
    )  # fmt: skip
    return _save(folder, jm.LEDForConditionalGeneration(config))


def t5(folder: Path) -> Path:
    unigram = tokenizers.Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(TEXTS, trainer)
    folder.mkdir()
    unigram.save(str(folder / "trained.json"))
    tokenizer = jm.T5Tokenizer(tokenizer_file=folder / "trained.json", extra_ids=0)
    tokenizer.save_pretrained(folder)
    (folder / "trained.json").unlink()
    config = jm.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0, initializer_factor=2.0,
    )  # fmt: skip
    return _save(folder, jm.T5ForConditionalGeneration(config))


def prompts(count: int) -> list[str]:
    """Texts of 1 to 9 words, all different within the sizes that the tests use."""
    return [" ".join(WORDS[n : n + 1 + 5 * n % 9]) for n in range(count)]


def write(file: Path, lines: Iterable) -> Path:
    """Writes one JSON value per line."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def _bpe(folder: Path, family: bpe.Family):
    bpe.save(bpe.train(TEXTS, 300, family), folder, 64, family)
    return jm.load_tokenizer(folder, family.cls)


def _ids(tokenizer) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}


def _save(folder: Path, model, seed: int = 0) -> Path:
    jm.save(folder, model, jm.init(model, jax.random.key(seed)))
    return folder
