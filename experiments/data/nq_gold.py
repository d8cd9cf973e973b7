"""Questions of Natural Questions with the passage that answers each (JSON lines), as open-domain QA uses them."""

import json
from pathlib import Path

from experiments.data.retrieval import Collection, Passage, Question, part


def read(file: Path) -> Collection:
    """All passages of the file, each once; a question is grouped by the article of its passage.

    A line is {"question": "...", "answers": ["...", ...], "title": "...", "passage": "..."}; other keys are not read.
    Answers that are blank are none: the real file has such lines.

    Raises:
      ValueError: a line is not of this form; says which.
    """
    found = Collection()
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{place}: not JSON: {error}") from None
            text, title = (part(entry, name, str, place) for name in ("question", "title"))
            answers = part(entry, "answers", list, place)
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise ValueError(f"{place}: 'answers' is a list of texts, at least one; got {answers!r:.60}")
            passage = found.place(Passage(title, part(entry, "passage", str, place)))
            given = tuple(dict.fromkeys(answer for answer in answers if answer.strip()))
            found.questions.append(Question(title, text, given, (passage,)))
    return found
