"""DPR's training files (Karpukhin et al. 2020): questions with right passages and wrong ones."""

from pathlib import Path

from experiments.data.retrieval import Collection, Passage, Question, part, parts, read_json


def read(file: Path) -> Collection:
    """All contexts of the file as passages, each once; a question is grouped by its own text.

    A question's hard negatives are its hard_negative_ctxs, or where these are none its negative_ctxs. A question
    without positive_ctxs is left out, as DPR's training leaves it out; its other passages stay.

    Raises:
      ValueError: the file is not of this form; says where.
    """
    found = Collection()
    content = read_json(file)
    if not isinstance(content, list):
        raise ValueError(f"{file} is not DPR's JSON, which is a list of questions; for SQuAD's, say data.kind=squad")
    for number, entry in enumerate(content):
        place = f"{file}, question {number}"
        text = part(entry, "question", str, place)
        answers = part(entry, "answers", list, place)
        if not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{place}: 'answers' is a list of texts, got {answers!r:.60}")
        positives, negatives, hard = (
            tuple(dict.fromkeys(_context(found, context, where) for where, context in parts(entry, name, place)))
            for name in ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
        )
        if positives:
            wrong = tuple(passage for passage in hard or negatives if passage not in positives)
            found.questions.append(Question(text, text, tuple(answers), positives, wrong))
    return found


def _context(found: Collection, context: dict, place: str) -> int:
    text = part(context, "text", str, place)
    title = context.get("title") or ""
    if not isinstance(title, str):
        raise ValueError(f"{place}: 'title' is a text, got {title!r:.60}")
    return found.place(Passage(title, text))
