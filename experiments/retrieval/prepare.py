"""From a config to what training and the search read: passages, questions of both sides, tokenizer, token tables."""

from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import cloze, corpus, dpr_json, published, squad, wordpiece
from experiments.data.pairs import Tokens, tokenize_passages, tokenize_questions
from experiments.data.retrieval import Collection, Passage, Question
from experiments.retrieval.bm25 import BM25, mine
from experiments.retrieval.start import checkpoint

KINDS = ("squad", "dpr", "text")


@dataclass(frozen=True)
class Data:
    """All passages, searched as one collection, and the questions of both sides; `*_tokens` are in the same order."""

    passages: list[Passage]
    train: list[Question]
    test: list[Question]
    tokenizer: jm.BertTokenizer
    passage_tokens: Tokens
    train_tokens: Tokens
    test_tokens: Tokens
    bm25: BM25


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """The data of this config. Each process reads it; a tokenizer that is trained is made by the first one for all.

    Raises:
      ValueError: a source that is not what data.kind says, or a side without questions.
      FileNotFoundError: there is nothing at data.path.
    """
    found = read(config)
    held = {q.group for q in found.questions if corpus.held_out(q.group, config.data.held_out)}
    train, test = ([q for q in found.questions if (q.group in held) == side] for side in (False, True))
    if not (train and test):
        raise ValueError(
            f"data.held_out={config.data.held_out} leaves {len(train)} questions to train on and {len(test)} to test "
            f"with, of {len(found.questions)} in {config.data.path}; change it, or bring more data"
        )
    bm25 = BM25(found.passages)
    if config.negatives:
        train = mine(bm25, found.passages, train, test, config.negative_pool)
    tokenizer = _tokenizer(config, found.passages, folder)
    lengths = config.lengths
    return Data(
        found.passages,
        train,
        test,
        tokenizer,
        tokenize_passages(tokenizer, found.passages, lengths.passage),
        *(tokenize_questions(tokenizer, side, lengths.question) for side in (train, test)),
        bm25,
    )


def read(config: FrozenConfigDict) -> Collection:
    """What is at data.path."""
    kind, path = config.data.kind, Path(config.data.path)
    if kind not in KINDS:
        raise ValueError(f"data.kind is one of {', '.join(KINDS)}; got {kind!r}")
    if kind == "text":
        return cloze.read(corpus.read("text", config.data.path), config.data.passage_words)
    if not path.is_file():
        raise FileNotFoundError(
            f"data.kind is {kind!r}, and there is no file at data.path={config.data.path!r}; give the place of "
            f"{published.KINDS[kind]} with --config.data.path="
        )
    return {"squad": squad, "dpr": dpr_json}[kind].read(path)


def _tokenizer(config: FrozenConfigDict, passages: list[Passage], folder: Path) -> jm.BertTokenizer:
    ready = config.tokenizer.path or checkpoint(config.start) or folder / "tokenizer"
    if ready == folder / "tokenizer":
        if jax.process_index() == 0 and not ready.is_dir():
            texts = (text for passage in passages for text in passage)
            wordpiece.train(texts, config.tokenizer.vocab_size, ready, config.lengths.passage)
        multihost_utils.sync_global_devices("tokenizer")
    return jm.load_tokenizer(ready, jm.DPRContextEncoderTokenizer)
