"""Data that an experiment has to be given: by which flag, what kind of files they are, and where such are public."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

# What an experiment needs of a config: keys like data.path, and what they name.
Wanted = Callable[[ConfigDict | FrozenConfigDict], Mapping[str, str]]

# By data.kind; a kind that is not here needs nothing.
KINDS = {
    "squad": "SQuAD's JSON, such as dev-v1.1.json from https://rajpurkar.github.io/SQuAD-explorer",
    "nq": "JSON lines of question, answers, title and passage, such as Natural Questions' with their gold passages, "
    "which https://github.com/google-research-datasets/QED has in other fields",
    "dpr": "a training file in DPR's JSON, such as biencoder-nq-dev.json from https://github.com/facebookresearch/DPR",
    "tsv": "a table of passages, such as psgs_w100.tsv.gz from https://github.com/facebookresearch/DPR",
    "text": "a folder of texts in UTF-8, such as books from https://www.gutenberg.org",
    "jsonl": "JSON lines with a text each, or a folder of such files, such as webtext.train.jsonl from "
    "https://github.com/openai/gpt-2-output-dataset",
    "english": "a folder laid out as tests/testdata, with the whole files of WikiText-2, SQuAD, WNUT-17 and BANKING77, "
    "from https://github.com/pytorch/examples and the other repositories that tests/testdata/README.md names",
}
WNUT17 = "the folder of WNUT-17's files, from https://github.com/leondz/emerging_entities_17"
BANKING77 = "the folder banking_data from https://github.com/PolyAI-LDN/task-specific-datasets"
QMSUM = "the folder of QMSum's val.jsonl and test.jsonl, data/ALL/jsonl in https://github.com/Yale-LILY/QMSum"
REPORTS = (
    "JSON lines of title, document and summary, such as chapters with their executive summaries from "
    "https://github.com/iandennismiller/mueller-report"
)


def nothing(_config) -> dict[str, str]:
    return {}


def of_kind(config) -> dict[str, str]:
    kind = config.data.kind
    return {"data.path": KINDS[kind]} if kind in KINDS else {}


def absent(config, wanted: Mapping[str, str]) -> str | None:
    """A sentence about what was not given, or about data that are not where they were said to be."""
    complaints = []
    for key, what in wanted.items():
        value = config
        for name in key.split("."):
            value = value[name]
        if not value:
            complaints.append(f"--config.{key}=PATH is required: {what}")
        elif key.startswith("data.") and not Path(value).exists():
            complaints.append(f"--config.{key}={value} does not exist; expected {what}")
    return "; ".join(complaints) or None
