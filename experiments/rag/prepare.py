"""From a config to what RAG reads: passages, questions of both sides, the two tokenizers."""

from dataclasses import dataclass
from pathlib import Path

from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.data import bpe, corpus, dpr_json, nq_gold, published, squad, wordpiece
from experiments.data.retrieval import Collection, Passage, Question
from experiments.rag.start import CONTEXT
from experiments.retrieval.bm25 import BM25
from experiments.retrieval.start import checkpoint

READERS = {"squad": squad.read, "nq": nq_gold.read, "dpr": dpr_json.read}
BART = bpe.Family(jm.BartTokenizer, bpe.ROBERTA.special)


@dataclass(frozen=True)
class Data:
    """All passages, searched as one collection, and the questions of both sides, with the tokenizers.

    Attributes:
      encoder: of questions and passages, for the encoders. generator: of contexts and answers.
    """

    passages: list[Passage]
    train: list[Question]
    test: list[Question]
    encoder: jm.BertTokenizer
    generator: jm.BartTokenizer | jm.T5Tokenizer
    bm25: BM25


def prepare(config: FrozenConfigDict, folder: Path) -> Data:
    """The data of this config; tokenizers that are trained are in `folder`.

    Raises:
      ValueError: a source that is not what data.kind says, a side without questions, or questions without answers.
      FileNotFoundError: there is nothing at data.path.
    """
    found = read(config)
    asked = [question for question in found.questions if question.answers]
    held = {q.group for q in asked if corpus.held_out(q.group, config.data.held_out)}
    train, test = ([q for q in asked if (q.group in held) == side] for side in (False, True))
    if not (train and test):
        raise ValueError(
            f"data.held_out={config.data.held_out} leaves {len(train)} questions with answers to train on and "
            f"{len(test)} to test with, of {len(found.questions)} in {config.data.path}; change it, or bring more data"
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
    """What is at data.path."""
    kind, path = config.data.kind, Path(config.data.path)
    if kind not in READERS:
        raise ValueError(f"data.kind is one of {', '.join(READERS)}; got {kind!r}")
    if not path.is_file():
        raise FileNotFoundError(
            f"data.kind is {kind!r}, and there is no file at data.path={config.data.path!r}; give the place of "
            f"{published.KINDS[kind]} with --config.data.path="
        )
    return READERS[kind](path)


def _encoder_tokenizer(config: FrozenConfigDict, texts: list[str], own: Path) -> jm.BertTokenizer:
    start = checkpoint(config.start)
    if start and (Path(start) / CONTEXT).is_dir():
        start = Path(start) / CONTEXT
    ready = config.tokenizer.path or start or own
    if ready == own and not own.is_dir():
        wordpiece.train(texts, config.tokenizer.vocab_size, own, config.lengths.passage)
    return jm.load_tokenizer(ready, jm.DPRQuestionEncoderTokenizer)


def _generator_tokenizer(config: FrozenConfigDict, texts: list[str], own: Path):
    if config.generator.start:
        return jm.load_tokenizer(config.generator.start)
    if not bpe.is_saved(own):
        bpe.save(bpe.train(texts, config.generator.vocab_size, BART), own, config.lengths.context, BART)
    # What looks like a special token in a passage is text, and contexts are cut where they are put together.
    return jm.load_tokenizer(own, cls=jm.BartTokenizer, split_special_tokens=True, model_max_length=None)
