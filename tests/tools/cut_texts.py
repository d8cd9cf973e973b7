"""Create the reduced texts and checkpoints of tests/testdata from the published files.

    python tests/tools/cut_texts.py FULL [OUT]

FULL is a folder laid out as tests/testdata is, with the whole files. Nothing is reworded: whole paragraphs, questions,
lines, meetings and chapters are kept, and the others left out. The same input gives the same bytes.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file, save_file

OUT = Path(__file__).resolve().parents[1] / "testdata"
WHOLE = (
    "checkpoints/tiny_gpt2",
    "checkpoints/bert-xsmall-dummy",
    "checkpoints/torch_formats",
    "classification/banking77/categories.json",
)
LARGE = "mnist.pt"  # 1.5 MB of torch's zip layout, of which the other files are
VOCABULARY = 200  # rows of the embeddings of the checkpoint that has a whole vocabulary

Cut = Callable[[str], str]


def main(full: Path, out: Path = OUT) -> None:
    for name, cut in CUTS.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        # As bytes, to preserve Windows line ends.
        (out / name).write_bytes(cut((full / name).read_bytes().decode()).encode())
    for name in WHOLE:
        for file in sorted((full / name).iterdir()) if (full / name).is_dir() else [full / name]:
            if file.name != LARGE:
                copy(file, out / file.relative_to(full))
    checkpoint(full / "checkpoints/bert_tiniest", out / "checkpoints/bert_tiniest")


def lines(count: int) -> Cut:
    """Take the first entries."""
    return lambda text: "".join(f"{line}\n" for line in text.split("\n")[:count])


def numbered(*numbers: int) -> Cut:
    return lambda text: "".join(text.split("\n")[number] + "\n" for number in numbers)


def rows_of_csv(step: int) -> Cut:
    """Take the header and every `step`-th row, since the rows are sorted by class."""

    def cut(text: str) -> str:
        head, *rows = text.split("\r\n")
        return "".join(f"{row}\r\n" for row in [head, *rows[:-1:step]])

    return cut


def sentences(count: int) -> Cut:
    """Take the first sentences, which end with a blank line; in some files it contains tabs or spaces."""

    def cut(text: str) -> str:
        kept, ended = [], 0
        for line in text.split("\n"):
            kept.append(f"{line}\n")
            ended += not line.strip()
            if ended == count:
                break
        return "".join(kept)

    return cut


def squad(articles: int, paragraphs: int) -> Cut:
    def cut(text: str) -> str:
        content = json.loads(text)
        content["data"] = content["data"][:articles]
        for article in content["data"]:
            article["paragraphs"] = article["paragraphs"][:paragraphs]
        return json.dumps(content, ensure_ascii=False) + "\n"

    return cut


def dpr(**most: int) -> Cut:
    def cut(text: str) -> str:
        questions = json.loads(text)
        for question in questions:
            for name, count in most.items():
                question[name] = question[name][:count]
        return json.dumps(questions, ensure_ascii=False) + "\n"

    return cut


def checkpoint(full: Path, out: Path) -> None:
    """Keep only the first rows of all parameters that have one row per token."""
    config = json.loads((full / "config.json").read_text())
    size, config["vocab_size"] = config["vocab_size"], VOCABULARY
    for file in sorted(full.iterdir()):
        copy(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = load_file(full / "model.safetensors")
    tensors = {name: values[:VOCABULARY] if len(values) == size else values for name, values in tensors.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


CUTS: dict[str, Cut] = {
    "text/tinyshakespeare.txt": lines(2_800),
    "text/wikitext-2/valid.txt": lines(150),
    "text/wikitext-2/test.txt": lines(200),
    "qa/squad/dev-v1.1.rebuilt.json": squad(articles=16, paragraphs=4),
    "qa/squad/haystack-small-v2.0.json": squad(articles=2, paragraphs=6),
    "qa/dpr/sample.json": dpr(positive_ctxs=3, negative_ctxs=4, hard_negative_ctxs=10),
    "qa/nq_gold/dev.jsonl": lines(48),
    "qa/nq_gold/train.jsonl": numbered(*range(24), 154, 410),  # the last two have no answer
    "qa/nq_open/NQ-open.dev.jsonl": lines(32),
    "longdoc/qmsum/val.jsonl": numbered(25, 33),  # of the shortest meetings
    "longdoc/qmsum/test.jsonl": numbered(8),
    "longdoc/mueller-report.jsonl": numbered(0),
    "classification/banking77/train.csv": rows_of_csv(50),
    "classification/banking77/test.csv": rows_of_csv(50),
    "ner/wnut17/wnut17train.conll": sentences(120),
    "ner/wnut17/emerging.dev.conll": sentences(60),
    "ner/wnut17/emerging.test.annotated": sentences(60),
}


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not (Path(sys.argv[1]) / "qa" / "squad").is_dir():
        sys.exit("expected a folder with checkpoints, classification, longdoc, ner, qa and text, and where to write")
    main(*map(Path, sys.argv[1:]))
