"""Folders with tiny models and their tokenizers, as checkpoints to fine-tune."""

from pathlib import Path

import jax
from support.tiny import sizes, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

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
BYTE_LEVEL = {"GPT2": bpe.GPT2, "Roberta": bpe.ROBERTA, "Bart": BART, "LED": LED}


def save_checkpoint(folder: Path, name: str, **config) -> Path:
    """Save a tiny model of the class, with random parameters and a tokenizer of the words above."""
    family = next((each for prefix, each in BYTE_LEVEL.items() if name.startswith(prefix)), None)
    if family is not None:
        bpe.save(bpe.train(TEXTS, 340, family), folder, 512, family)
    elif name.startswith(("T5", "Llama")):
        _save_generic(folder, begin=name.startswith("Llama"))
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


def _save_generic(folder: Path, begin: bool) -> None:
    """Save a tokenizer.json of whole words: `text </s>`, or `<s> text`."""
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    pattern, token = ("<s> $A", "<s>") if begin else ("$A </s>", "</s>")
    backend.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[(token, special.index(token))]
    )
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"bos_token": "<s>"} if begin else {})
    jm.GenericTokenizer(backend, **tokens).save_pretrained(folder)
