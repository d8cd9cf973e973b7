"""Small collections in the formats of the retrieval experiment."""

import json
from pathlib import Path

PLACES = ("Aldria", "Borvia", "Cestan", "Dorland", "Elmark", "Fennia", "Gorstan", "Hallia", "Istria", "Jorvik")
TOPICS = {
    "river": "The longest river of {} is the {}, which freezes in January and floods the fields in April.",
    "capital": "The capital of {} is {}, a town of weavers on a hill, built around an old market square.",
    "dish": "People in {} eat {} in the evening, a stew of beans with smoked fish and sour bread.",
}


def squad(articles: int = len(PLACES)) -> dict:
    """Create SQuAD 1.1 data: one article per country with three paragraphs, each with two questions."""
    data = []
    for place in PLACES[:articles]:
        paragraphs = []
        for topic, text in TOPICS.items():
            answer = f"{place[:3]}{topic[:2]}on".title()
            questions = (f"Which {topic} does {place} have?", f"What is the name of the {topic} in {place}?")
            qas = [
                {"id": f"{place}-{topic}-{n}", "question": q, "answers": [{"text": answer, "answer_start": 0}]}
                for n, q in enumerate(questions)
            ]
            paragraphs.append({"context": text.format(place, answer), "qas": qas})
        data.append({"title": f"{place}_(country)", "paragraphs": paragraphs})
    return {"version": "1.1", "data": data}


def dpr() -> list[dict]:
    """Create DPR data: the first question has hard negatives, the second only negatives, the third no positives."""

    def context(text, **more):
        return {"title": text.title(), "text": f"About {text}.", "score": 1.0, **more}

    return [
        {
            "question": "who sings",
            "answers": ["Ann", "Bo"],
            "positive_ctxs": [context("ann"), context("bo")],
            "negative_ctxs": [context("cy")],
            "hard_negative_ctxs": [context("dee"), context("bo"), context("dee")],
        },
        {
            "question": "who dances",
            "answers": ["Cy"],
            "positive_ctxs": [{"text": "About cy.", "title": None}],
            "negative_ctxs": [context("ann")],
            "hard_negative_ctxs": [],
        },
        {
            "question": "who sleeps",
            "answers": [],
            "positive_ctxs": [],
            "negative_ctxs": [context("eve")],
            "hard_negative_ctxs": [],
        },
    ]


def write(folder: Path, content: dict | list) -> Path:
    """Write a JSON file."""
    file = folder / "sample.json"
    file.write_text(json.dumps(content))
    return file
