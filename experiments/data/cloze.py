"""Questions from bare text by the inverse cloze task (Lee et al. 2019, arXiv:1906.00300): a sentence is the query."""

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.data.corpus import Document
from experiments.data.retrieval import Collection, Passage, Question

_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_SHORTEST = 4  # words of a sentence that can be a query


def read(documents: Iterable[Document], words: int) -> Collection:
    """Passages of whole sentences, about `words` words each, titled with the name of their file.

    Each passage gives one query: one of its sentences, drawn by chance (the same in every run), which is taken out of
    it. The passage is what was around the sentence, in training and in the test. Where nothing would be left, or no
    sentence has four words, there is no passage. There are no answers.

    Raises:
      ValueError: words < 1.
    """
    if words < 1:
        raise ValueError(f"data.passage_words is at least 1, got {words}")
    found = Collection()
    for document in documents:
        for number, sentences in enumerate(_cut(document.text, words)):
            usable = [i for i, sentence in enumerate(sentences) if len(sentence.split()) >= _SHORTEST]
            if len(sentences) > 1 and usable:
                query = sentences.pop(random.Random(f"{document.group}:{number}").choice(usable))
                passage = found.place(Passage(Path(document.group).stem, " ".join(sentences)))
                found.questions.append(Question(document.group, query, (), (passage,)))
    return found


def _cut(text: str, words: int) -> Iterator[list[str]]:
    """The sentences of each passage."""
    sentences, count = [], 0
    for sentence in filter(None, map(str.strip, _END.split(text))):
        sentences.append(" ".join(sentence.split()))
        count += len(sentence.split())
        if count >= words:
            yield sentences
            sentences, count = [], 0
    if sentences:
        yield sentences
