"""Folders with tiny models and their tokenizers, as checkpoints to fine-tune."""

from pathlib import Path

import jax
from support.tiny import sizes, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import jaxmodels as jm
from experiments.data import bpe

TEXT = (
    "the film was good bad great dull fine poor and a we saw it never again who what where when did go to in "
    "Ada Bob Eve Rome Oslo Lima lives loves is yes no maybe summarize: so really"
)
WORDS = TEXT.split()
TEXTS = [" ".join(WORDS), " ".join(reversed(WORDS))] * 20
BART = bpe.Family(jm.BartTokenizer, bpe.ROBERTA.special)
LED = bpe.Family(jm.LEDTokenizer, bpe.ROBERTA.special)
# Families by prefix of the class name; the others have BERT's tokenizer.
BYTE_LEVEL = {"GPT2": bpe.GPT2, "Llama": bpe.GPT2, "Roberta": bpe.ROBERTA, "Bart": BART, "LED": LED}


def save_checkpoint(folder: Path, name: str, **config) -> Path:
    """Save a tiny model of the class, with random parameters and a tokenizer of the words above."""
    family = next((each for prefix, each in BYTE_LEVEL.items() if name.startswith(prefix)), None)
    if family is not None:
        bpe.save(bpe.train(TEXTS, 340, family), folder, 512, family)
    elif name.startswith("T5"):
        _save_unigram(folder)
    else:
        folder.mkdir()
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word.lower() for word in WORDS}), *":?."]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        jm.BertTokenizer(vocab_file=folder / "vocab.txt", model_max_length=512).save_pretrained(folder)
    tokenizer = jm.load_tokenizer(folder)
    special = {key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    special = {key: value for key, value in special.items() if value is not None}
    if name.startswith(("Bart", "LED")):
        special["decoder_start_token_id"] = tokenizer.eos_token_id
    positions = {key: 64 for key in sizes(name) if "position" in key and not key.startswith("relative")}
    model, params = tiny(name, **{"vocab_size": len(tokenizer), **positions, **special, **config})
    # With scales of normalizations near 1, the model learns in a few steps.
    params = jax.tree.map_with_path(lambda path, leaf: leaf + (path[-1].key == "scale"), params)
    jm.save(folder, model, params)
    return folder


def _save_unigram(folder: Path) -> None:
    """Save a tokenizer.json of whole words for T5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -1.0) for word in sorted({*WORDS}))]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    jm.T5Tokenizer(tokenizer_file=folder / "tokenizer.json", extra_ids=8).save_pretrained(folder)
