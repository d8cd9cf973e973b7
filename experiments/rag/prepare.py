"""Data of the RAG experiment: passages, training and test questions, and the two tokenizers."""

from dataclasses import dataclass
from pathlib import Path

from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..data import bpe, corpus, published, retrieval, wordpiece
from ..data.passages import read_questions
from ..data.retrieval import Collection, Passage, Question
from ..retrieval.biencoder import resolve_checkpoint
from ..retrieval.bm25 import BM25
from .models import CONTEXT

TABLE = "table"
READERS = {"squad": retrieval.read_squad, "nq": retrieval.read_natural_questions, "dpr": retrieval.read_dpr}
BART = bpe.Family(jm.BartTokenizer, bpe.ROBERTA.special)


@dataclass(frozen=True)
class Data:
    """Passages, questions, tokenizers and the BM25 baseline.

    Attributes:
      passages: All passages, including those of test questions.
      train: Training questions.
      test: Test questions.
      encoder: Tokenizer of the encoders, for questions and passages.
      generator: Tokenizer of the generator, for contexts and answers.
      bm25: BM25 over the passages.
    """

    passages: list[Passage]
    train: list[Question]
    test: list[Question]
    encoder: jm.BertTokenizer
    generator: jm.BartTokenizer | jm.T5Tokenizer
    bm25: BM25


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """Load the data of a config; new tokenizers are trained and stored in `folder`.

    Raises:
      ValueError: The format of the data is not data.kind, or a split has no questions with answers.
      FileNotFoundError: data.path does not exist.
    """
    found = read(config)
    answered = [question for question in found.questions if question.answers]
    held_out = {q.group for q in answered if corpus.held_out(q.group, config.data.held_out)}
    train, test = ([q for q in answered if (q.group in held_out) == is_test] for is_test in (False, True))
    if not (train and test):
        raise ValueError(
            f"data.held_out={config.data.held_out} leaves {len(train)} training and {len(test)} test questions with "
            f"answers, of {len(found.questions)} in {config.data.path}; change it, or use more data"
        )
    texts = [text for passage in found.passages for text in passage]
    texts += [question.text for question in train]
    return Data(
        found.passages,
        train,
        test,
        _encoder_tokenizer(config, texts, folder / "encoder_tokenizer"),
        _generator_tokenizer(config, texts, folder / "generator_tokenizer"),
        BM25(found.passages),
    )


def read(config: FrozenConfigDict) -> Collection:
    """Read the questions and passages at data.path."""
    kind, path = config.data.kind, Path(config.data.path)
    if kind == TABLE:
        return read_questions(config.data.path, config.columns)
    if kind not in READERS:
        raise ValueError(f"data.kind is one of {', '.join([TABLE, *READERS])}; got {kind!r}")
    if not path.is_file():
        raise FileNotFoundError(
            f"data.kind is {kind!r}, but there is no file at data.path={config.data.path!r}; set --config.data.path= "
            f"to {published.KINDS[kind]}"
        )
    return READERS[kind](path)


def _encoder_tokenizer(config: FrozenConfigDict, texts: list[str], trained: Path) -> jm.BertTokenizer:
    start = resolve_checkpoint(config.start)
    if start and (Path(start) / CONTEXT).is_dir():
        start = Path(start) / CONTEXT
    source = config.tokenizer.path or start or trained
    if source == trained and not trained.is_dir():
        wordpiece.train(texts, config.tokenizer.vocab_size, trained, config.lengths.passage)
    return jm.load_tokenizer(source, jm.DPRQuestionEncoderTokenizer)


def _generator_tokenizer(
    config: FrozenConfigDict, texts: list[str], trained: Path
) -> jm.BartTokenizer | jm.T5Tokenizer:
    if config.generator.start:
        return jm.load_tokenizer(config.generator.start)
    if not bpe.is_saved(trained):
        bpe.save(bpe.train(texts, config.generator.vocab_size, BART), trained, config.lengths.context, BART)
    # Treat special tokens in passages as plain text; contexts are truncated when they are assembled.
    return jm.load_tokenizer(trained, cls=jm.BartTokenizer, split_special_tokens=True, model_max_length=None)
