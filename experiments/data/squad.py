"""SQuAD's JSON (Rajpurkar et al. 2016, 2018): articles, their paragraphs, and questions about these."""

from pathlib import Path

from experiments.data.retrieval import Collection, Passage, Question, part, parts, read_json


def read(file: Path) -> Collection:
    """Every paragraph as a passage under its article's title; a question belongs to its paragraph, grouped by article.

    Versions 1.1 and 2.0. The questions of 2.0 that have no answer are left out; their paragraphs stay.

    Raises:
      ValueError: the file is not of this form; says where.
    """
    found = Collection()
    content = read_json(file)
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(
            f"{file} is not SQuAD's JSON, which is an object with a list 'data' of articles; for DPR's format, a list "
            "of questions, say data.kind=dpr"
        )
    for place, article in parts(content, "data", str(file)):
        title = part(article, "title", str, place).replace("_", " ")
        for paragraph_place, paragraph in parts(article, "paragraphs", place):
            passage = found.place(Passage(title, part(paragraph, "context", str, paragraph_place)))
            for question_place, question in parts(paragraph, "qas", paragraph_place):
                if "is_impossible" in question and part(question, "is_impossible", bool, question_place):
                    continue
                text = part(question, "question", str, question_place)
                answers = dict.fromkeys(part(a, "text", str, p) for p, a in parts(question, "answers", question_place))
                found.questions.append(Question(title, text, tuple(answers), (passage,)))
    return found
