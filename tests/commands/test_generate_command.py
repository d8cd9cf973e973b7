"""`python -m jaxmodels generate`: the library's text on standard output, as it comes; the rate on standard error."""

import argparse
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.command_samples import run

import jaxmodels as jm
from jaxmodels.commands import generate

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "the harbour of the town"
NEW = 6


def expected(folder, **options) -> str:
    """What the library gives for the prompt, decoded as the model wrote it."""
    model, params = jm.load(folder)
    tokenizer = jm.load_tokenizer(folder)
    batch = dict(tokenizer([PROMPT]))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if isinstance(model, jm.LEDForConditionalGeneration):
        inputs["global_attention_mask"] = np.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, 0] = 1
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    out = jm.generate(model, params, **inputs, max_new_tokens=NEW, pad_token_id=pad, **options).sequences[0]
    new = out[1:] if model.config.is_encoder_decoder else out[inputs["input_ids"].shape[1] :]
    return tokenizer.decode(np.asarray(new), skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", ["gpt2", "t5", "led", pytest.param("bart", marks=pytest.mark.slow)])
def test_the_text_is_that_of_generate(checkpoints, capsys, family):
    folder = checkpoints(family)
    status, printed, errors = run(capsys, "generate", folder, PROMPT, "--max-new-tokens", NEW)
    assert status == 0 and printed == expected(folder) + "\n" and len(printed) > 1
    count = int(re.search(r"^(\d+) tokens in [\d.]+ s, with the time to compile", errors, re.MULTILINE)[1])
    assert 1 <= count <= NEW
    assert count == 1 or re.search(r"after the first one [\d,.]+ tokens/s$", errors.strip())


def test_the_seed_decides_what_is_drawn(checkpoints, capsys):
    folder = checkpoints("gpt2")
    options = ("--max-new-tokens", NEW, "--top-k", 40)
    drawn = [run(capsys, "generate", folder, PROMPT, *options, "--seed", seed)[1] for seed in (1, 2)]
    assert drawn[0] == expected(folder, do_sample=True, top_k=40, key=jax.random.key(1)) + "\n" != drawn[1]


@pytest.mark.parametrize(
    ("given", "drawing"),
    [((), False), (("--seed", 3), True), (("--top-p", 0.9), True), (("--sample",), True), (("--no-sample",), False)],
)
def test_sampling_is_implied_by_its_options(given, drawing):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    asked = generate.options_of(parser.parse_args(["a model", PROMPT, *map(str, given)]))
    assert asked.get("do_sample", False) is drawing
    assert asked["max_new_tokens"] == 64 and asked["num_return_sequences"] == 1


def test_beams_are_printed_at_the_end(checkpoints, capsys):
    """They do not stream, and so there is no rate after the first token."""
    options = ("--num-beams", 3, "--length-penalty", 2.0, "--no-repeat-ngram-size", 2, "--max-new-tokens", NEW)
    status, printed, errors = run(capsys, "generate", checkpoints("gpt2"), PROMPT, *options)
    assert status == 0 and "after the first" not in errors
    assert printed == expected(checkpoints("gpt2"), num_beams=3, length_penalty=2.0, no_repeat_ngram_size=2) + "\n"


def test_the_prompt_may_come_from_standard_input(checkpoints, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    status, printed, _ = run(capsys, "generate", checkpoints("gpt2"), "-", "--max-new-tokens", NEW)
    assert status == 0 and printed == expected(checkpoints("gpt2")) + "\n"


def test_text_is_written_as_it_comes_and_never_half_a_character(checkpoints, capsys):
    """Token by token; the dash and the letter take several bytes, and with them several tokens."""
    tokenizer = jm.load_tokenizer(checkpoints("gpt2"))
    text = "don 't — é ."
    printer, pieces = generate.Printer(tokenizer), []
    for token in tokenizer(text)["input_ids"]:
        printer(np.array([token], np.int32))
        pieces.append(capsys.readouterr().out)
    printer.close()
    assert "".join(pieces) == text and capsys.readouterr().out == "\n"
    assert sum(map(bool, pieces)) > 5 and "" in pieces and "\ufffd" not in "".join(pieces)


def test_it_does_not_end_a_text_that_a_decoder_continues(checkpoints):
    """RoBERTa's tokenizer puts <s> before and </s> after; GPT-2's puts nothing; an encoder reads both."""
    model, _ = jm.load(checkpoints("gpt2"))
    roberta = jm.load_tokenizer(checkpoints("bart"))
    ids = generate.encode(model, roberta, PROMPT)["input_ids"][0]
    assert ids[0] == roberta.bos_token_id and ids[-1] != roberta.eos_token_id
    read = generate.encode(jm.load(checkpoints("bart"))[0], roberta, PROMPT)["input_ids"][0]
    assert read.tolist() == [*ids.tolist(), roberta.eos_token_id]


def test_an_leds_first_token_is_global(checkpoints):
    inputs = generate.encode(jm.load(checkpoints("led"))[0], jm.load_tokenizer(checkpoints("led")), PROMPT)
    assert inputs["global_attention_mask"].tolist() == [[1] + [0] * (inputs["input_ids"].shape[1] - 1)]


WRONG = {
    "no prompt": ("gpt2", "", (), "the prompt is empty"),
    "too long a prompt": ("gpt2", "word " * 80, (), "this model reads 63; cut it"),
    "too many tokens": ("gpt2", "a", ("--max-new-tokens", "90"), "are more than the 64 positions"),
    "a document that is too long": ("led", "word " * 40, (), "this model reads 32; cut it"),
    "no sampling, but its option": (
        "gpt2",
        "a",
        ("--top-p", ".5", "--no-sample"),
        "--top-p is of sampling, and --no-s",
    ),
    "no beams, but their option": ("gpt2", "a", ("--length-penalty", "2"), "--length-penalty is of a beam search"),
    "a temperature below 0": ("gpt2", "a", ("--temperature", "-1"), "temperature is above 0, got -1.0"),
    "a class that does not": ("gpt2", "a", ("--class", "GPT2Model"), "is of class GPT2Model, which does not generate"),
    "no beams at all": ("gpt2", "a", ("--num-beams", "0"), "num_beams is an int of at least 1, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(checkpoints, capsys, case):
    family, prompt, options, message = WRONG[case]
    status, printed, errors = run(capsys, "generate", checkpoints(family), prompt, *options)
    assert status == 2 and printed == "" and message in errors and len(errors.splitlines()) == 1, errors


def test_a_model_without_a_tokenizer_or_with_anothers_is_refused(checkpoints, tmp_path, capsys):
    model, params = jm.load(checkpoints("gpt2"))
    jm.save(tmp_path, model, params)
    assert "has neither tokenizer.json nor" in run(capsys, "generate", tmp_path, "a")[2]
    tokenizer = jm.load_tokenizer(checkpoints("gpt2"))
    small, less = jm.resize_token_embeddings(model, params, 200, key=jax.random.key(0))
    jm.save(tmp_path, small.clone(config=small.config.replace(bos_token_id=0, eos_token_id=0)), less)
    tokenizer.save_pretrained(tmp_path)
    assert "is outside the model's vocabulary of 200" in run(capsys, "generate", tmp_path, "é the")[2]


def test_as_a_program_standard_output_is_the_text_alone(checkpoints):
    command = [
        sys.executable,
        "-m",
        "jaxmodels",
        "generate",
        str(checkpoints("gpt2")),
        "-",
        "--max-new-tokens",
        str(NEW),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, input=PROMPT.encode())
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert done.stdout.decode() == expected(checkpoints("gpt2")) + "\n" and b"tokens/s" in done.stderr
