"""English text to pretrain on: articles of WikiText-2, paragraphs of SQuAD, and two tasks' training texts, unlabelled.

The tasks' texts (not their labels, and nothing of their test sets) are there because pretraining helps a task most on
text of its own kind (Gururangan et al. 2020, "Don't Stop Pretraining", arXiv:2004.10964).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from experiments.data import banking, conll


def read(root: Path) -> Iterator[tuple[str, str]]:
    """(group, text) of each document; a group is an article, or one of the tasks' texts.

    Raises:
      FileNotFoundError: `root` lacks one of the files; it names the file.
      ValueError: a damaged file.
    """
    for name in ("valid", "test"):
        yield from _wikitext(_existing(root / "text" / "wikitext-2" / f"{name}.txt"))
    yield from _squad(_existing(root / "qa" / "squad" / "dev-v1.1.rebuilt.json"))
    for sentence in conll.read(root / "ner" / "wnut17" / "wnut17train.conll"):
        text = " ".join(sentence.words)
        yield f"wnut17:{text}", text
    for example in banking.read(root / "classification" / "banking77", "train"):
        yield f"banking77:{example.text}", example.text


def _wikitext(file: Path) -> Iterator[tuple[str, str]]:
    """Articles begin with a title between single equals signs."""
    parts = re.split(r"^ (= [^=\n]+ =) $", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield f"wikitext:{title}", _plain(title + body)


def _plain(text: str) -> str:
    """Without WikiText's marks: numbers and compounds are whole again, and unknown words are left out."""
    return re.sub(r" ?<unk>", "", re.sub(r" @(.)@ ", r"\1", text))


def _squad(file: Path) -> Iterator[tuple[str, str]]:
    """A paragraph and its questions, one below the other; the group is the article."""
    try:
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                questions = [entry["question"] for entry in paragraph["qas"]]
                yield f"squad:{article['title']}", "\n".join([paragraph["context"], *questions])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not SQuAD's JSON (data, paragraphs, context, qas, question): {error!r}") from error


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; data.path names the folder that holds text/ and qa/")
    return file
