"""From a corpus to what training reads: a tokenizer and two arrays of tokens, made once per run and kept on disk."""

from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import bpe, corpus, packing


@dataclass(frozen=True)
class Data:
    """tokenizer: as it is saved with the model; text: the held-out documents, as a compressor reads them."""

    tokenizer: packing.Tokenizer
    train: packing.Split
    validation: packing.Split
    text: bytes


def prepare(config: FrozenConfigDict, folder: Path, length: int, family: bpe.Family = bpe.GPT2) -> Data:
    """The data of this config, from the folder where they are there already. The first process makes them for all.

    Args:
      length: tokens that the model takes, which the tokenizer is to know.
      family: of the tokenizer, where one is trained.
    """
    ready = config.tokenizer.path or folder / "tokenizer"
    if jax.process_index() == 0:
        if not config.tokenizer.path and not bpe.is_saved(ready):
            texts = (document.text for document in corpus.read(**_source(config)))
            bpe.save(bpe.train(texts, config.tokenizer.vocab_size, family), ready, length, family)
        if not packing.is_packed(folder / "data"):
            # What looks like the end-of-text token in a document is text, and no document is too long.
            encoder = jm.load_tokenizer(ready, split_special_tokens=True, model_max_length=None)
            packing.pack(corpus.read(**_source(config)), encoder, folder / "data", config.data.held_out)
    multihost_utils.sync_global_devices("data")
    text = packing.validation_text(folder / "data")
    return Data(jm.load_tokenizer(ready), *packing.unpack(folder / "data"), text)


def _source(config: FrozenConfigDict) -> dict[str, str]:
    return {"kind": config.data.kind, "path": config.data.path, "field": config.data.field}
