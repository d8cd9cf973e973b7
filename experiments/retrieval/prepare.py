"""Data of the retrieval experiment: passages, training and test questions, tokenizer, and tokens."""

from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..data import corpus, published, retrieval, wordpiece
from ..data.pairs import Tokens, tokenize_passages, tokenize_questions
from ..data.retrieval import Collection, Passage, Question
from .biencoder import resolve_checkpoint
from .bm25 import BM25, mine_hard_negatives

KINDS = ("squad", "dpr", "text")


@dataclass(frozen=True)
class Data:
    """Passages, including those of test questions, and questions; `*_tokens` are in the same order."""

    passages: list[Passage]
    train: list[Question]
    test: list[Question]
    tokenizer: jm.BertTokenizer
    passage_tokens: Tokens
    train_tokens: Tokens
    test_tokens: Tokens
    bm25: BM25


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """Load the data of a config, in each process; if a new tokenizer is trained, the first process does it.

    Raises:
      ValueError: The format of the data is not data.kind, or a split has no questions.
      FileNotFoundError: data.path does not exist.
    """
    found = read(config)
    held_out = {q.group for q in found.questions if corpus.held_out(q.group, config.data.held_out)}
    train, test = ([q for q in found.questions if (q.group in held_out) == is_test] for is_test in (False, True))
    if not (train and test):
        raise ValueError(
            f"data.held_out={config.data.held_out} leaves {len(train)} training and {len(test)} test questions of "
            f"{len(found.questions)} in {config.data.path}; change it, or use more data"
        )
    bm25 = BM25(found.passages)
    if config.negatives:
        train = mine_hard_negatives(bm25, found.passages, train, test, config.negative_pool)
    tokenizer = _tokenizer(config, found.passages, folder)
    lengths = config.lengths
    return Data(
        found.passages,
        train,
        test,
        tokenizer,
        tokenize_passages(tokenizer, found.passages, lengths.passage),
        tokenize_questions(tokenizer, train, lengths.question),
        tokenize_questions(tokenizer, test, lengths.question),
        bm25,
    )


def read(config: FrozenConfigDict) -> Collection:
    """Read the questions and passages at data.path."""
    kind, path = config.data.kind, Path(config.data.path)
    if kind not in KINDS:
        raise ValueError(f"data.kind is one of {', '.join(KINDS)}; got {kind!r}")
    if kind == "text":
        return retrieval.make_cloze_questions(corpus.read("text", config.data.path), config.data.passage_words)
    if not path.is_file():
        raise FileNotFoundError(
            f"data.kind is {kind!r}, but there is no file at data.path={config.data.path!r}; set --config.data.path= "
            f"to {published.KINDS[kind]}"
        )
    return {"squad": retrieval.read_squad, "dpr": retrieval.read_dpr}[kind](path)


def _tokenizer(config: FrozenConfigDict, passages: list[Passage], folder: Path) -> jm.BertTokenizer:
    source = config.tokenizer.path or resolve_checkpoint(config.start) or folder / "tokenizer"
    if source == folder / "tokenizer":
        if jax.process_index() == 0 and not (folder / "tokenizer").is_dir():
            texts = (text for passage in passages for text in passage)
            wordpiece.train(texts, config.tokenizer.vocab_size, folder / "tokenizer", config.lengths.passage)
        multihost_utils.sync_global_devices("tokenizer")
    return jm.load_tokenizer(source, jm.DPRContextEncoderTokenizer)
