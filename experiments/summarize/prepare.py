"""From a config to what training and the test read: requests of both sides, tokenizer, tokens."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import bpe, qmsum
from experiments.data.qmsum import Collection
from experiments.summarize.examples import Summaries, tokenize

LED = bpe.Family(jm.LEDTokenizer, bpe.ROBERTA.special)


@dataclass(frozen=True)
class Data:
    """The requests of training and test, and those of another kind of document, of which nothing is trained on."""

    train: Collection
    test: Collection
    transfer: Collection
    tokenizer: jm.LEDTokenizer
    train_tokens: Summaries
    test_tokens: Summaries
    transfer_tokens: Summaries


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """The data of this config. Each process reads it; a tokenizer that is trained is made by the first one for all."""
    root, lengths = Path(config.data.path), config.lengths
    train, test = (qmsum.read(root / name) for name in (config.data.train, config.data.test))
    test = test.some(config.test_requests)
    transfer = qmsum.read_documents(Path(config.data.transfer), config.data.transfer_query)
    ready = _tokenizer(config, train, folder)
    # What looks like a special token in a document is text, and no document is too long.
    encoder = jm.load_tokenizer(ready, cls=jm.LEDTokenizer, split_special_tokens=True, model_max_length=None)
    tokens = partial(tokenize, tokenizer=encoder, query=lengths.query, source=lengths.source, target=lengths.summary)
    sides = (train, test, transfer)
    return Data(*sides, jm.load_tokenizer(ready, cls=jm.LEDTokenizer), *map(tokens, sides))


def _tokenizer(config: FrozenConfigDict, train: Collection, folder: Path) -> Path:
    """The folder of tokenizer.path, or else of one trained on what is trained on."""
    ready = Path(config.tokenizer.path or folder / "tokenizer")
    if jax.process_index() == 0 and not config.tokenizer.path and not bpe.is_saved(ready):
        texts = [train.text(number) for number in range(len(train.documents))]
        texts += [text for request in train.requests for text in (request.query, request.summary)]
        trained = bpe.train(texts, config.tokenizer.vocab_size, LED)
        bpe.save(trained, ready, config.lengths.source, LED)
    multihost_utils.sync_global_devices("tokenizer")
    return ready


def facts(config: FrozenConfigDict, tokenizer: jm.LEDTokenizer) -> dict:
    """The keys of LED's config, those that the data decide included."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}
    return {
        **config.model,
        **special,
        "vocab_size": len(tokenizer),
        "decoder_start_token_id": tokenizer.eos_token_id,
        "max_encoder_position_embeddings": config.lengths.source,
        "max_decoder_position_embeddings": config.lengths.summary,
    }
