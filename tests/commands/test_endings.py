"""How commands end: their version, output without notes, Ctrl-C, and a closed pipe."""

import os
import subprocess
import sys

import pytest
from support import command_samples

import jaxmodels as jm
from jaxmodels.__main__ import INTERRUPTED, PIPE_CLOSED, main
from jaxmodels.commands import COMMANDS

ARGUMENTS = {
    "ask": ("QUESTION", "--model=M", "--index=I"),
    "convert": ("A", "B"),
    "estimate": ("M", "--topology=v5e:1x1", "--mesh=data=1", "--batch=1", "--length=8"),
    "evaluate": ("perplexity", "M", "D"),
    "generate": ("M", "PROMPT"),
    "run": ("gpt2_lm",),
    "verify": ("A",),
}


def raising(error: type[BaseException], *arguments):
    def run(_arguments):
        print("a note", file=sys.stderr)
        raise error(*arguments)

    return run


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"jaxmodels {jm.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_ends_quietly(name, monkeypatch, capsys):
    monkeypatch.setattr(COMMANDS[name], "run", raising(KeyboardInterrupt))
    assert main([name, *ARGUMENTS[name]]) == INTERRUPTED
    assert capsys.readouterr() == ("", "a note\n")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"run"}))
def test_quiet_leaves_out_notes_but_no_errors(name, monkeypatch, capsys):
    monkeypatch.setattr(COMMANDS[name], "run", raising(ValueError, "no such\nthing"))
    assert main([name, "--quiet", *ARGUMENTS[name]]) == 2
    assert capsys.readouterr() == ("", f"jaxmodels {name}: no such thing\n")


def test_an_error_of_an_experiment_keeps_its_traceback(monkeypatch):
    """Unlike those of commands: an experiment is code to edit."""
    monkeypatch.setattr(COMMANDS["run"], "run", raising(ValueError, "shapes differ"))
    with pytest.raises(ValueError, match="shapes differ"):
        main(["run", "gpt2_lm"])


def test_a_missing_package_of_an_experiment_is_named(monkeypatch, capsys):
    def import_module(_name):
        raise ModuleNotFoundError("No module named 'tensorboardX'", name="tensorboardX.proto")

    monkeypatch.setattr(COMMANDS["run"].importlib, "import_module", import_module)
    assert main(["run", "gpt2_lm"]) == 2
    message = "jaxmodels run: gpt2_lm needs tensorboardX: pip install 'jaxmodels[experiments]'\n"
    assert capsys.readouterr().err == message


def test_quiet_text_is_the_same(checkpoints, capsys):
    arguments = ("generate", checkpoints("gpt2"), "the", "--max-new-tokens", 4)
    status, text, notes = command_samples.run(capsys, *arguments)
    assert status == 0 and "tokens in" in notes
    assert command_samples.run(capsys, *arguments, "--quiet") == (0, text, "")


def test_a_closed_pipe_ends_a_command_quietly(checkpoints):
    """While text is streamed, from a callback of the compiled program."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxmodels", "generate", checkpoints("gpt2"), "the", "--max-new-tokens=4"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


def test_ctrl_c_ends_the_process_with_130():
    code = "import os, signal, sys; from jaxmodels import __main__; from jaxmodels.commands import verify\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "verify.run = lambda _: os.kill(os.getpid(), signal.SIGINT)\n__main__.console()"
    done = subprocess.run([sys.executable, "-c", code, "verify", "A"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
