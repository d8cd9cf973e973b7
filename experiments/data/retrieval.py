"""Passages and questions about them, from the files of SQuAD, Natural Questions and DPR, or from plain text."""

import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .corpus import Document


class Passage(NamedTuple):
    """A passage to search. The title may be empty."""

    title: str
    text: str


class Question(NamedTuple):
    """A question and its passages, as indices in the list of passages.

    Attributes:
      group: Questions of a group are in the same split.
      text: The question.
      answers: Correct answers; empty if unknown.
      positives: Relevant passages, at least one; the first is used for training.
      negatives: Passages that look relevant but are not; empty if unknown.
    """

    group: str
    text: str
    answers: tuple[str, ...]
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()


@dataclass
class Collection:
    """Distinct passages, and questions."""

    passages: list[Passage] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    _indices: dict[Passage, int] = field(default_factory=dict, repr=False)

    def add_passage(self, passage: Passage) -> int:
        """Return the index of a passage, which is appended if it is new."""
        if passage not in self._indices:
            self._indices[passage] = len(self.passages)
            self.passages.append(passage)
        return self._indices[passage]


def read_json(file: Path) -> Any:
    """Read a JSON file; raise ValueError if it is not JSON."""
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from None


def require(entry: Any, name: str, expected: type, location: str) -> Any:
    """Return entry[name].

    Raises:
      ValueError: The entry is not an object, or the value is missing, of another type, or an empty string.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{location}: expected an object with {name!r}, got {type(entry).__name__}")
    if name not in entry:
        raise ValueError(f"{location}: no {name!r}; it has {', '.join(map(repr, entry)) or 'nothing'}")
    value: Any = entry[name]
    if not isinstance(value, expected) or (expected is str and not str(value).strip()):
        raise ValueError(f"{location}: {name!r} is a {_TYPE_NAMES[expected]}, got {value!r:.60}")
    return value


def require_list(entry: Any, name: str, location: str) -> Iterator[tuple[str, Any]]:
    """Yield (location, element) for each element of the list entry[name]."""
    for number, element in enumerate(require(entry, name, list, location)):
        yield f"{location}, {name}[{number}]", element


_TYPE_NAMES = {str: "non-empty string", list: "list", bool: "boolean", object: "value"}


def read_squad(file: Path) -> Collection:
    """Read SQuAD's JSON (Rajpurkar et al. 2016, 2018), version 1.1 or 2.0.

    Each paragraph is a passage with the title of its article; questions are grouped by article. Unanswerable questions
    are skipped, but not their paragraphs.

    Raises:
      ValueError: The file has another format; the message gives the location.
    """
    found = Collection()
    content = read_json(file)
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(
            f"{file} is not SQuAD's JSON, an object with a list 'data' of articles; for DPR's format, a list of "
            "questions, set data.kind=dpr"
        )
    for location, article in require_list(content, "data", str(file)):
        title = require(article, "title", str, location).replace("_", " ")
        for paragraph_location, paragraph in require_list(article, "paragraphs", location):
            passage = found.add_passage(Passage(title, require(paragraph, "context", str, paragraph_location)))
            for question_location, question in require_list(paragraph, "qas", paragraph_location):
                if "is_impossible" in question and require(question, "is_impossible", bool, question_location):
                    continue
                text = require(question, "question", str, question_location)
                answers = dict.fromkeys(
                    require(a, "text", str, p) for p, a in require_list(question, "answers", question_location)
                )
                found.questions.append(Question(title, text, tuple(dict.fromkeys(answers)), (passage,)))
    return found


def read_dpr(file: Path) -> Collection:
    """Read a training file of DPR (Karpukhin et al. 2020): questions with relevant and irrelevant passages.

    The hard negatives of a question are its hard_negative_ctxs, or its negative_ctxs if there are none. Questions
    without positive_ctxs are skipped, as in DPR's training, but not their other passages. Each question is its own
    group.

    Raises:
      ValueError: The file has another format; the message gives the location.
    """
    found = Collection()
    content = read_json(file)
    if not isinstance(content, list):
        raise ValueError(f"{file} is not DPR's JSON, a list of questions; for SQuAD's format, set data.kind=squad")
    for number, entry in enumerate(content):
        location = f"{file}, question {number}"
        text = require(entry, "question", str, location)
        answers = require(entry, "answers", list, location)
        if not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{location}: 'answers' is a list of strings, got {answers!r:.60}")
        positives, negatives, hard = (
            tuple(
                dict.fromkeys(
                    _dpr_passage(found, context, where) for where, context in require_list(entry, name, location)
                )
            )
            for name in ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
        )
        if positives:
            wrong = tuple(passage for passage in hard or negatives if passage not in positives)
            found.questions.append(Question(text, text, tuple(answers), positives, wrong))
    return found


def _dpr_passage(found: Collection, context: dict, location: str) -> int:
    text = require(context, "text", str, location)
    title = context.get("title") or ""
    if not isinstance(title, str):
        raise ValueError(f"{location}: 'title' is a string, got {title!r:.60}")
    return found.add_passage(Passage(title, text))


def read_natural_questions(file: Path) -> Collection:
    """Read questions of Natural Questions with gold passages, as JSON lines; questions are grouped by article.

    A line is {"question": "...", "answers": ["...", ...], "title": "...", "passage": "..."}; other keys are ignored.
    Blank answers, which the original file contains, are skipped.

    Raises:
      ValueError: A line has another format; the message gives its number.
    """
    found = Collection()
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            location = f"{file}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{location}: not JSON: {error}") from None
            text, title = (require(entry, name, str, location) for name in ("question", "title"))
            answers = require(entry, "answers", list, location)
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise ValueError(f"{location}: 'answers' is a non-empty list of strings; got {answers!r:.60}")
            passage = found.add_passage(Passage(title, require(entry, "passage", str, location)))
            distinct = tuple(dict.fromkeys(answer for answer in answers if answer.strip()))
            found.questions.append(Question(title, text, distinct, (passage,)))
    return found


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_MIN_QUERY_WORDS = 4


def make_cloze_questions(documents: Iterable[Document], words: int) -> Collection:
    """Create questions from plain text by the inverse cloze task (Lee et al. 2019, arXiv:1906.00300).

    Passages consist of whole sentences, about `words` words each, titled with the name of their file. The query of a
    passage is a random sentence of it (the same in every run), which is removed from the passage. Passages with only
    one sentence, or without a sentence of four words, are skipped. There are no answers.

    Raises:
      ValueError: words < 1.
    """
    if words < 1:
        raise ValueError(f"data.passage_words is at least 1, got {words}")
    found = Collection()
    for document in documents:
        for number, sentences in enumerate(_passages(document.text, words)):
            usable = [i for i, sentence in enumerate(sentences) if len(sentence.split()) >= _MIN_QUERY_WORDS]
            if len(sentences) > 1 and usable:
                query = sentences.pop(random.Random(f"{document.group}:{number}").choice(usable))
                passage = found.add_passage(Passage(Path(document.group).stem, " ".join(sentences)))
                found.questions.append(Question(document.group, query, (), (passage,)))
    return found


def _passages(text: str, words: int) -> Iterator[list[str]]:
    """Yield the sentences of each passage."""
    sentences: list[str] = []
    count = 0
    for sentence in filter(None, map(str.strip, _SENTENCE_END.split(text))):
        sentences.append(" ".join(sentence.split()))
        count += len(sentence.split())
        if count >= words:
            yield sentences
            sentences, count = [], 0
    if sentences:
        yield sentences
