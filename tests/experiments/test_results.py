"""The recorded runs: their page and their help follow from results.toml, and their commands are valid."""

import importlib
import shlex

import pytest

from experiments import command, results
from jaxmodels.__main__ import make_parser
from jaxmodels.commands.run import EXPERIMENTS

RUNS, PODS = results.read(), results.read("pod")


def test_page_is_up_to_date():
    assert results.PAGE.read_text() == results.page(RUNS, PODS), "run python -m experiments.results"
    plots = {results.plot_file(run) for run in RUNS if "plot" in run}
    assert {*results.PLOTS.iterdir()} == plots, "run python -m experiments.results, and delete other files there"
    # The plots' versions of matplotlib differ; what they show is text.
    for run in RUNS:
        if "plot" in run:
            text = results.plot_file(run).read_text()
            assert all(f">{words}</text>" in text for words in [*dict(run["plot"]["bars"]), run["plot"]["unit"]])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["title"])
def test_recorded_command_is_valid(run):
    given = make_parser().parse_args(shlex.split(run["command"])[1:])
    assert given.experiment == run["experiment"]
    module = importlib.import_module(f"experiments.{given.experiment}")
    function, _, default, _ = module.main.args
    command.parse(given.options, function, default)


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["config"])
def test_estimated_config_and_command_exist(pod):
    importlib.import_module(f"experiments.configs.{pod['config']}").get_config()
    if "estimate" in pod:
        assert make_parser().parse_args(shlex.split(pod["estimate"])[1:]).command == "estimate"


def test_help_shows_what_was_measured(capsys):
    module = importlib.import_module("experiments.reinforce")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    text = capsys.readouterr().out
    assert "Measured:\n  A GPT-2 trained by policy gradient\n" in text and "99.3%" in text
    assert {run["experiment"] for run in RUNS} == EXPERIMENTS.keys() - {"generate"}


def test_incomplete_run_is_rejected(tmp_path):
    (tmp_path / "runs.toml").write_text('[[run]]\ntitle = "a"\nextra = 1\n')
    with pytest.raises(ValueError, match="runs.toml, 'a': missing or unknown: command, experiment, extra, hardware"):
        results.read(source=tmp_path / "runs.toml")
