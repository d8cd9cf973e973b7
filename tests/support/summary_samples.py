"""Small meetings in the format of QMSum, and reports as JSON lines."""

import json
from collections.abc import Iterable
from pathlib import Path

PLACES = ("Aldria", "Borvia", "Cestan", "Dorland", "Elmark", "Fennia")
TOPICS = ("budget", "bridge", "harbour")


def meeting(place: str) -> dict:
    """Create a meeting with two turns and an empty one per topic, a query per topic, and one about everything."""
    turns = [{"speaker": "Chair", "content": f"Welcome to the council of {place} ."}]
    for topic in TOPICS:
        turns += [
            {"speaker": "Ann", "content": f"The {topic} of {place} needs repair before winter , and it costs a lot ."},
            {"speaker": "Bo", "content": ""},
            {"speaker": "Bo", "content": f"I agree , and the {topic} has to wait for the spring of next year ."},
        ]
    specific = [
        {
            "query": f"What was said about the {topic}?",
            "answer": f"Ann wants the {topic} of {place} repaired before winter, and Bo wants to wait.",
            "relevant_text_span": [["0", "1"]],
        }
        for topic in TOPICS
    ]
    general = [{"query": "Summarize the whole meeting.", "answer": f"The council of {place} spoke of three topics."}]
    return {
        "topic_list": [],
        "general_query_list": general,
        "specific_query_list": specific,
        "meeting_transcripts": turns,
    }


def report(place: str) -> dict:
    """Create a document with a summary."""
    paragraphs = [f"The harbour of {place} was built in the year of the flood .", f"It is {place} 's only one ."]
    return {"id": place, "title": place, "document": "\n\n".join(paragraphs), "summary": f"{place} has one harbour."}


def write(file: Path, entries: Iterable[dict]) -> Path:
    """Write JSON lines."""
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def folder(path: Path) -> Path:
    """Write val.jsonl, test.jsonl and reports.jsonl."""
    write(path / "val.jsonl", map(meeting, PLACES[:4]))
    write(path / "test.jsonl", map(meeting, PLACES[4:]))
    write(path / "reports.jsonl", map(report, PLACES[:2]))
    return path
