"""Where passages come from: a table like DPR's psgs_w100.tsv, SQuAD's paragraphs, NQ's, or a folder of texts."""

from collections.abc import Iterator
from pathlib import Path

from experiments.data import corpus, nq_gold, squad
from jaxmodels.retrieval.foreign_files import read_passages_tsv

KINDS = ("tsv", "squad", "nq", "text")


def passages(kind: str, path: str, words: int) -> Iterator[tuple[str, str]]:
    """(title, text) in an order that depends on the data alone, one at a time where the format allows it.

    Args:
      kind: "tsv": columns id, text and title, also as .tsv.gz. "squad", "nq": as the experiments of retrieval read
        them. "text": every UTF-8 file of the folder in blocks of `words` words, titled with the name of the file.

    Raises:
      ValueError: an unknown kind, or data that is not of it.
      FileNotFoundError: there is nothing at `path`.
    """
    if kind not in KINDS:
        raise ValueError(f"data.kind is one of {', '.join(KINDS)}; got {kind!r}")
    if kind == "text":
        yield from _blocks(path, words)
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"data.kind is {kind!r}, and there is no file at data.path={path!r}")
    if kind == "tsv":
        yield from ((row.title, row.text) for row in read_passages_tsv(path))
    else:
        yield from {"squad": squad, "nq": nq_gold}[kind].read(Path(path)).passages


def _blocks(path: str, size: int) -> Iterator[tuple[str, str]]:
    """As DPR cuts Wikipedia (Karpukhin et al. 2020, section 4.1): blocks of so many words that do not overlap."""
    if size < 1:
        raise ValueError(f"data.passage_words is at least 1, got {size}")
    for document in corpus.read("text", path):
        words = document.text.split()
        for start in range(0, len(words), size):
            yield Path(document.group).stem, " ".join(words[start : start + size])
