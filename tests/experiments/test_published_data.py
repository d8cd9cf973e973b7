"""Missing data: a one-line error names the flag, the expected data and where to download it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments.data import published
from jaxmodels.commands import run as run_command

ROOT = Path(__file__).resolve().parents[2]
PATH = "--config.data.path=PATH is required: "
QMSUM = f"{PATH}{published.QMSUM}; --config.data.transfer=PATH is required: {published.REPORTS}"
# Each config, its experiment, and the error message without flags.
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
    "roberta_large_pod": ("roberta_finetune", PATH + published.KINDS["jsonl"]),
    "dpr_nq_pod": ("dpr_retrieval", PATH + published.KINDS["dpr"]),
    "rag_nq_pod": ("rag_qa", PATH + published.KINDS["dpr"]),
    "led_arxiv_pod": ("finetune", f"--config.data.train=PATH is required: {published.TABLE}"),
    "led_qmsum_4096": ("led_summarize", QMSUM),
    "led_qmsum_16384": ("led_summarize", QMSUM),
    "generate": (
        "generate",
        "--config.model.path=PATH is required: a model: a folder or a Hub id; "
        "--config.input=PATH is required: JSON lines, each with a prompt",
    ),
    "finetune": (
        "finetune",
        f"--config.init=PATH is required: {published.CHECKPOINT}; --config.data.train=PATH is required: "
        + published.TABLE,
    ),
}
NEED_NOTHING = {"gpt2_demo", "led_needle", "reinforce"}
# Of the command `evaluate`, whose model and data are arguments.
COMMANDS = {"evaluate"}
STARTED = ("dpr_squad_scratch", "encode_squad", "rag_nq_bart", "roberta_banking77", "gpt2_xl_pod", "led_qmsum_16384")
# One process for all, since imports are slow. Each child runs an experiment like on the command line.
START_ALL = """
import os, sys
from jaxmodels.__main__ import main
import jaxmodels.experiments.rag_qa
for name, module in (run.split(":") for run in sys.argv[1:]):
    child = os.fork()
    if not child:
        for stream, ending in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{ending}", os.O_WRONLY | os.O_CREAT), stream)
        sys.exit(main(["run", module, f"--config={name}"]))
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Run every experiment that needs data without flags in one folder; return the folder and the exit statuses."""
    folder = tmp_path_factory.mktemp("started")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START_ALL, *(f"{name}:{RUNS[name][0]}" for name in STARTED)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return folder, dict(line.split() for line in ran.stdout.splitlines())


@pytest.mark.parametrize("name", STARTED)
def test_missing_data_is_a_one_line_error(started, name):
    folder, statuses = started
    assert statuses[name] == "1" and (folder / f"{name}.out").read_text() == ""
    assert (folder / f"{name}.err").read_text() == RUNS[name][1] + "\n"
    assert "https://" in RUNS[name][1]
    assert not (folder / "runs").exists(), "nothing was started"


@pytest.mark.parametrize("name", RUNS)
def test_every_config_reports_missing_data(name):
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    module = importlib.import_module(f"experiments.{RUNS[name][0]}")
    assert (
        published.missing_data(config, getattr(module, "required_data", published.data_by_kind)(config))
        == RUNS[name][1]
    )


def test_all_configs_are_tested_and_have_no_machine_specific_paths():
    files = {file.stem: file.read_text() for file in (ROOT / "experiments/configs").glob("*.py")}
    whole = {name for name in files if not name.endswith(("_smoke", "__init__"))}
    assert whole == RUNS.keys() | NEED_NOTHING | COMMANDS
    assert [name for name, text in files.items() if '"../' in text or '"/' in text] == []


def test_experiments_of_a_checkout_are_modules_too():
    names = {name for name, _ in RUNS.values()} | {"gpt2_lm", "led_needle", "reinforce"}
    assert names == run_command.EXPERIMENTS.keys()
    for name in names:
        text = (ROOT / "experiments" / f"{name}.py").read_text()
        assert text.endswith('if __name__ == "__main__":\n    main(sys.argv[1:])\n'), name
    command = [sys.executable, "-m", "experiments.generate", "--config=experiments/configs/generate.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, RUNS["generate"][1] + "\n")


def test_nonexistent_data_path_is_reported(tmp_path):
    config = ConfigDict({"data": {"kind": "nq", "path": str(tmp_path / "train.jsonl")}})
    problem = published.missing_data(config, published.data_by_kind(config))
    assert problem.startswith(f"--config.data.path={tmp_path}/train.jsonl does not exist; expected JSON lines")
    (tmp_path / "train.jsonl").touch()
    assert published.missing_data(config, published.data_by_kind(config)) is None
    assert published.data_by_kind(ConfigDict({"data": {"kind": "stdlib", "path": ""}})) == {}
