"""The data that an experiment requires: the flag, the format of the files, and where to download them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict, FrozenConfigDict

# Function from a config to its required keys, such as data.path, each with a description of the data.
AnyConfig: TypeAlias = ConfigDict | FrozenConfigDict
RequiredData = Callable[[AnyConfig], Mapping[str, str]]

# By data.kind; other kinds need no data.
KINDS = {
    "squad": "SQuAD's JSON, such as dev-v1.1.json from https://rajpurkar.github.io/SQuAD-explorer",
    "nq": "JSON lines of question, answers, title and passage, such as Natural Questions with gold passages, "
    "which https://github.com/google-research-datasets/QED provides under other field names",
    "table": "a file .csv, .jsonl, .json or .parquet with questions, the passage of each, and its answers",
    "dpr": "a training file in DPR's JSON, such as biencoder-nq-dev.json from https://github.com/facebookresearch/DPR",
    "tsv": "a table of passages, such as psgs_w100.tsv.gz from https://github.com/facebookresearch/DPR",
    "text": "a folder of UTF-8 text files, such as books from https://www.gutenberg.org",
    "jsonl": "JSON lines, each with a text, or a folder of such files, such as webtext.train.jsonl from "
    "https://github.com/openai/gpt-2-output-dataset",
    "english": "a folder with the layout of tests/testdata and the complete files of WikiText-2, SQuAD, WNUT-17 and "
    "BANKING77, from https://github.com/pytorch/examples and other repositories listed in tests/testdata/README.md",
}
WNUT17 = "the folder with the files of WNUT-17, from https://github.com/leondz/emerging_entities_17"
BANKING77 = "the folder banking_data from https://github.com/PolyAI-LDN/task-specific-datasets"
QMSUM = "the folder with val.jsonl and test.jsonl of QMSum, data/ALL/jsonl in https://github.com/Yale-LILY/QMSum"
REPORTS = (
    "JSON lines of title, document and summary, such as chapters with their executive summaries from "
    "https://github.com/iandennismiller/mueller-report"
)
CHECKPOINT = "the checkpoint to start from, a folder or the id of a model on the Hugging Face Hub"
TABLE = (
    "a file .csv, .tsv, .jsonl, .json, .parquet, .conll or .txt, a folder of .txt files, or one that save_to_disk of "
    "Hugging Face's datasets wrote for a split; or a data set of its Hub as ID:SPLIT, such as stanfordnlp/imdb:train"
)


def no_data(_config: AnyConfig) -> dict[str, str]:
    """Return no required keys."""
    return {}


def data_by_kind(config: AnyConfig) -> dict[str, str]:
    """Return data.path as a required key, described according to data.kind."""
    kind = config.data.kind
    return {"data.path": KINDS[kind]} if kind in KINDS else {}


def missing_data(config: AnyConfig, required: Mapping[str, str]) -> str | None:
    """Return an error message about required keys that are not set, or name paths that do not exist."""
    problems = []
    for key, description in required.items():
        value: Any = config
        for name in key.split("."):
            value = value[name]
        if not value:
            problems.append(f"--config.{key}=PATH is required: {description}")
        elif key.startswith("data.") and not Path(value).exists():
            problems.append(f"--config.{key}={value} does not exist; expected {description}")
    return "; ".join(problems) or None
