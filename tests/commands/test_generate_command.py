"""`jaxmodels generate`: streams the library's text to standard output, throughput to standard error."""

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
    """Returns the library's output for the prompt, decoded without clean-up."""
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
def test_the_text_is_that_of_the_library(checkpoints, capsys, family):
    folder = checkpoints(family)
    status, printed, errors = run(capsys, "generate", folder, PROMPT, "--max-new-tokens", NEW)
    assert status == 0 and printed == expected(folder) + "\n" and len(printed) > 1
    count = int(re.search(r"^(\d+) tokens in [\d.]+ s, including compilation", errors, re.MULTILINE)[1])
    assert 1 <= count <= NEW
    assert count == 1 or re.search(r"after the first token [\d,.]+ tokens/s$", errors.strip())


def test_the_seed_determines_the_sample(checkpoints, capsys):
    folder = checkpoints("gpt2")
    options = ("--max-new-tokens", NEW, "--top-k", 40)
    sampled = [run(capsys, "generate", folder, PROMPT, *options, "--seed", seed)[1] for seed in (1, 2)]
    assert sampled[0] == expected(folder, do_sample=True, top_k=40, key=jax.random.key(1)) + "\n" != sampled[1]


@pytest.mark.parametrize(
    ("options", "do_sample"),
    [((), False), (("--seed", 3), True), (("--top-p", 0.9), True), (("--sample",), True), (("--no-sample",), False)],
)
def test_sampling_is_implied_by_its_options(options, do_sample):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    parsed = generate.generation_options(parser.parse_args(["a model", PROMPT, *map(str, options)]))
    assert parsed.get("do_sample", False) is do_sample
    assert parsed["max_new_tokens"] == 64 and parsed["num_return_sequences"] == 1


def test_beams_are_printed_at_the_end(checkpoints, capsys):
    """Beam search does not stream, so there is no throughput after the first token."""
    options = ("--num-beams", 3, "--length-penalty", 2.0, "--no-repeat-ngram-size", 2, "--max-new-tokens", NEW)
    status, printed, errors = run(capsys, "generate", checkpoints("gpt2"), PROMPT, *options)
    assert status == 0 and "after the first" not in errors
    assert printed == expected(checkpoints("gpt2"), num_beams=3, length_penalty=2.0, no_repeat_ngram_size=2) + "\n"


def test_the_prompt_is_read_from_standard_input(checkpoints, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    status, printed, _ = run(capsys, "generate", checkpoints("gpt2"), "-", "--max-new-tokens", NEW)
    assert status == 0 and printed == expected(checkpoints("gpt2")) + "\n"


def test_text_is_streamed_in_whole_characters(checkpoints, capsys):
    """The dash and the accented letter take several bytes and therefore several tokens."""
    tokenizer = jm.load_tokenizer(checkpoints("gpt2"))
    text = "don 't — é ."
    printer, pieces = generate.Printer(tokenizer), []
    for token in tokenizer(text)["input_ids"]:
        printer(np.array([token], np.int32))
        pieces.append(capsys.readouterr().out)
    printer.close()
    assert "".join(pieces) == text and capsys.readouterr().out == "\n"
    assert sum(map(bool, pieces)) > 5 and "" in pieces and "\ufffd" not in "".join(pieces)


def test_a_prompt_to_continue_has_no_end_token(checkpoints):
    """RoBERTa's tokenizer adds <s> before and </s> after; GPT-2's adds nothing; an encoder gets both."""
    model, _ = jm.load(checkpoints("gpt2"))
    roberta = jm.load_tokenizer(checkpoints("bart"))
    ids = generate.encode_prompt(model, roberta, PROMPT)["input_ids"][0]
    assert ids[0] == roberta.bos_token_id and ids[-1] != roberta.eos_token_id
    encoder_ids = generate.encode_prompt(jm.load(checkpoints("bart"))[0], roberta, PROMPT)["input_ids"][0]
    assert encoder_ids.tolist() == [*ids.tolist(), roberta.eos_token_id]


def test_the_first_token_of_an_led_is_global(checkpoints):
    inputs = generate.encode_prompt(jm.load(checkpoints("led"))[0], jm.load_tokenizer(checkpoints("led")), PROMPT)
    assert inputs["global_attention_mask"].tolist() == [[1] + [0] * (inputs["input_ids"].shape[1] - 1)]


INVALID = {
    "no prompt": ("gpt2", "", (), "the prompt is empty"),
    "too long a prompt": ("gpt2", "word " * 80, (), "this model accepts 63; shorten it"),
    "too many tokens": ("gpt2", "a", ("--max-new-tokens", "90"), "are more than the 64 positions"),
    "a document that is too long": ("led", "word " * 40, (), "this model accepts 32; shorten it"),
    "sampling option without sampling": (
        "gpt2",
        "a",
        ("--top-p", ".5", "--no-sample"),
        "--top-p is for sampling, which --no-sample turns off",
    ),
    "beam search option without beams": ("gpt2", "a", ("--length-penalty", "2"), "--length-penalty is for beam search"),
    "negative temperature": ("gpt2", "a", ("--temperature", "-1"), "temperature must be above 0, got -1.0"),
    "a class that cannot generate": (
        "gpt2",
        "a",
        ("--class", "GPT2Model"),
        "is of class GPT2Model, which cannot generate",
    ),
    "zero beams": ("gpt2", "a", ("--num-beams", "0"), "num_beams must be an int of at least 1, got 0"),
}


@pytest.mark.parametrize("case", INVALID)
def test_errors_are_printed_in_one_line(checkpoints, capsys, case):
    family, prompt, options, message = INVALID[case]
    status, printed, errors = run(capsys, "generate", checkpoints(family), prompt, *options)
    assert status == 2 and printed == "" and message in errors and len(errors.splitlines()) == 1, errors


def test_a_missing_tokenizer_or_one_of_another_model_raises(checkpoints, tmp_path, capsys):
    model, params = jm.load(checkpoints("gpt2"))
    jm.save(tmp_path, model, params)
    assert "has neither tokenizer.json nor" in run(capsys, "generate", tmp_path, "a")[2]
    tokenizer = jm.load_tokenizer(checkpoints("gpt2"))
    small, less = jm.resize_token_embeddings(model, params, 200, key=jax.random.key(0))
    jm.save(tmp_path, small.clone(config=small.config.replace(bos_token_id=0, eos_token_id=0)), less)
    tokenizer.save_pretrained(tmp_path)
    assert "is outside the model's vocabulary of 200" in run(capsys, "generate", tmp_path, "é the")[2]


def test_the_program_prints_only_the_text_to_standard_output(checkpoints):
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
