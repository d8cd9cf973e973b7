"""Data that have to be given: one sentence says so, names the flag, what is expected and where it is public."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments.data import published

ROOT = Path(__file__).resolve().parents[2]
PATH = "--config.data.path=PATH is required: "
QMSUM = f"{PATH}{published.QMSUM}; --config.data.transfer=PATH is required: {published.REPORTS}"
# Each config, the experiment that it is for, and what is said without any flag.
RUNS = {
    "dpr_squad_scratch": ("dpr_retrieval", PATH + published.KINDS["squad"]),
    "dpr_squad_minilm": ("dpr_retrieval", PATH + published.KINDS["squad"]),
    "encode_squad": ("encode_corpus", PATH + published.KINDS["squad"]),
    "rag_squad": ("rag_qa", PATH + published.KINDS["squad"]),
    "rag_nq": ("rag_qa", PATH + published.KINDS["nq"]),
    "rag_nq_bart": ("rag_qa", PATH + published.KINDS["nq"]),
    "roberta_mlm_15": ("roberta_finetune", PATH + published.KINDS["english"]),
    "roberta_mlm_40": ("roberta_finetune", PATH + published.KINDS["english"]),
    "roberta_wnut17": ("roberta_finetune", PATH + published.WNUT17),
    "roberta_banking77": ("roberta_finetune", PATH + published.BANKING77),
    "gpt2_xl_pod": ("gpt2_lm", PATH + published.KINDS["jsonl"]),
    "led_qmsum_4096": ("led_summarize", QMSUM),
    "led_qmsum_16384": ("led_summarize", QMSUM),
    "generate": (
        "generate",
        "--config.model.path=PATH is required: a model: a folder, or an id of the Hub; "
        "--config.input=PATH is required: JSON lines with a prompt each",
    ),
}
NEED_NOTHING = {"gpt2_demo", "led_needle"}
STARTED = ("dpr_squad_scratch", "encode_squad", "rag_nq_bart", "roberta_banking77", "gpt2_xl_pod", "led_qmsum_16384")
# One process for all: what is slow is to import. Each child is an experiment started as from the command line.
START_ALL = """
import os, runpy, sys
import experiments.command, experiments.loop, experiments.rag.prepare, experiments.rag.start, experiments.scores
for name, module in (run.split(":") for run in sys.argv[1:]):
    child = os.fork()
    if not child:
        for stream, ending in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{ending}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = [module, f"--config={os.environ['CONFIGS']}/{name}.py"]
        runpy.run_module(f"experiments.{module}", run_name="__main__")
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Every experiment that takes data, without a flag, in one folder: that, and the exit statuses."""
    folder = tmp_path_factory.mktemp("started")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CONFIGS": str(ROOT / "experiments/configs")}
    command = [sys.executable, "-c", START_ALL, *(f"{name}:{RUNS[name][0]}" for name in STARTED)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return folder, dict(line.split() for line in ran.stdout.splitlines())


@pytest.mark.parametrize("name", STARTED)
def test_an_experiment_without_its_data_says_one_sentence(started, name):
    folder, statuses = started
    assert statuses[name] == "1" and (folder / f"{name}.out").read_text() == ""
    assert (folder / f"{name}.err").read_text() == RUNS[name][1] + "\n"
    assert "https://" in RUNS[name][1]
    assert not (folder / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize("name", RUNS)
def test_every_config_says_what_it_lacks(name):
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    module = importlib.import_module(f"experiments.{RUNS[name][0]}")
    assert published.absent(config, getattr(module, "wanted", published.of_kind)(config)) == RUNS[name][1]


def test_every_config_is_tried_and_none_names_a_place_of_one_machine():
    files = {file.stem: file.read_text() for file in (ROOT / "experiments/configs").glob("*.py")}
    whole = {name for name in files if not name.endswith(("_smoke", "__init__"))}
    assert whole == RUNS.keys() | NEED_NOTHING
    assert [name for name, text in files.items() if '"../' in text or '"/' in text] == []


def test_data_that_are_elsewhere_are_asked_for(tmp_path):
    config = ConfigDict({"data": {"kind": "nq", "path": str(tmp_path / "train.jsonl")}})
    complaint = published.absent(config, published.of_kind(config))
    assert complaint.startswith(f"--config.data.path={tmp_path}/train.jsonl does not exist; expected JSON lines")
    (tmp_path / "train.jsonl").touch()
    assert published.absent(config, published.of_kind(config)) is None
    assert published.of_kind(ConfigDict({"data": {"kind": "stdlib", "path": ""}})) == {}
