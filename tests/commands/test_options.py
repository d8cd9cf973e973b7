"""Every option of the commands has an effect, or raises where it would have none."""

import argparse

import pytest

from jaxmodels.__main__ import main
from jaxmodels.commands import COMMANDS, estimate, generate

ESTIMATE = ("estimate", "nowhere", "--topology", "v5e:1x1", "--mesh", "data=1", "--batch", "1", "--length", "8")
# By command: options that always have an effect. `convert` has its own tests.
ALWAYS_EFFECTIVE = {
    "ask": {"model", "index", "documents", "beams", "max_new_tokens", "context_encoder"},
    "generate": {"max_new_tokens", "num_beams", "no_repeat_ngram_size", "repetition_penalty", "sample", "cls", "dtype"},
    "verify": {"cls", "seed"},
    "estimate": {"program", "topology", "slices", "mesh", "batch", "length", "rules", "cls", "dtype", "param_dtype"},
}
# The others, in a call in which they would have no effect.
INEFFECTIVE = {
    ("generate", "length_penalty"): ("FOLDER", "a", "--length-penalty", "2"),
    ("generate", "temperature"): ("FOLDER", "a", "--temperature", "2", "--no-sample"),
    ("generate", "top_k"): ("FOLDER", "a", "--top-k", "2", "--no-sample"),
    ("generate", "top_p"): ("FOLDER", "a", "--top-p", "0.5", "--no-sample"),
    ("generate", "seed"): ("FOLDER", "a", "--seed", "2", "--no-sample"),
    ("verify", "tolerance"): ("FOLDER", "--tolerance", "0.1"),
    ("estimate", "target_length"): (*ESTIMATE[1:], "--program", "generate", "--target-length", "4"),
    ("estimate", "unroll"): (*ESTIMATE[1:], "--program", "generate", "--unroll"),
    ("estimate", "remat"): (*ESTIMATE[1:], "--program", "forward", "--remat"),
    ("estimate", "microbatches"): (*ESTIMATE[1:], "--program", "forward", "--microbatches", "2"),
    ("estimate", "search"): (*ESTIMATE[1:], "--program", "forward", "--search"),
    ("estimate", "prng"): (*ESTIMATE[1:], "--program", "forward", "--prng", "rbg"),
    ("estimate", "new_tokens"): (*ESTIMATE[1:], "--new-tokens", "4"),
    ("estimate", "beams"): (*ESTIMATE[1:], "--beams", "2"),
    ("estimate", "cache_dtype"): (*ESTIMATE[1:], "--cache-dtype", "int8"),
    ("estimate", "global_tokens"): ("FOLDER", *ESTIMATE[2:], "--global-tokens", "2"),
}


@pytest.mark.parametrize("command", ALWAYS_EFFECTIVE)
def test_the_tables_list_every_option(command):
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    options = {action.dest for action in parser._actions if action.option_strings} - {"help"}
    assert options == ALWAYS_EFFECTIVE[command] | {name for owner, name in INEFFECTIVE if owner == command}


@pytest.mark.parametrize(("command", "option"), INEFFECTIVE)
def test_an_option_without_effect_raises_in_one_line(command, option, checkpoints, capsys, monkeypatch):
    monkeypatch.setattr(estimate.importlib.util, "find_spec", lambda name: True)
    arguments = [str(checkpoints("gpt2")) if word == "FOLDER" else word for word in INEFFECTIVE[command, option]]
    assert main([command, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--{option.replace('_', '-')} is " in line


def test_options_of_generate_are_in_the_table():
    assert {*generate.OPTIONS} <= ALWAYS_EFFECTIVE["generate"] | {
        name for owner, name in INEFFECTIVE if owner == "generate"
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_exits_with_2(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--bogus"])
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
