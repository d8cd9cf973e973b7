"""`python -m jaxmodels estimate`: the compiler's figures as a table, from a config alone."""

import argparse
import importlib.util
import json
import re

import jax.numpy as jnp
import optax
import pytest
from support.command_samples import rows, run
from support.tiny import sizes

import jaxmodels as jm
from jaxmodels import estimate
from jaxmodels.chips import KINDS
from jaxmodels.commands import estimate as command
from jaxmodels.commands.estimate_rows import lines
from jaxmodels.estimate import Collective, Estimate, Generation

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
ONE = ("--topology", "v5e:1x1", "--mesh", "data=1", "--rules", "DP", "--batch", "4", "--length", "16")
FOUR = ("--topology", "v5e:2x2", "--mesh", "data=2,model=2", "--batch", "8", "--length", "16")


@pytest.fixture
def folder(tmp_path):
    """folder(class name) -> a folder with no more than a config.json."""

    def write(name: str = "GPT2LMHeadModel"):
        cls = getattr(jm, name)
        config = cls.config_class(**sizes(name)).replace(architectures=(name,), bos_token_id=1, eos_token_id=2)
        (tmp_path / "config.json").write_text(config.to_json())
        return tmp_path

    return write


def asked_of(*arguments):
    """What the command calls: a function, and its arguments by place and by name."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.asked(parser.parse_args([str(argument) for argument in arguments]))


def model(**choices):
    return jm.GPT2LMHeadModel(jm.GPT2Config(**sizes("GPT2")), **choices)


def test_the_table_of_a_step_by_hand():
    """Products of 2 s, and a state that is read and written in 1 s; and the other way round."""
    device = KINDS["v5e"]
    state, sent = int(device.bandwidth / 2), {"all-reduce": Collective(3, 2**20), "all-gather": Collective(2, 2**30)}
    found = Estimate("v5e:2x2", 4, state, state + 2**20, state, 2**31, 2 * device.flops, sent)
    told = rows("\n".join(lines(model(dtype=jnp.bfloat16), found)))
    assert told["slice"] == "v5e:2x2, 4 x 16 GiB"
    memory = (state + 2**20 + 2**31) / 2**30
    assert told["memory per device"] == f"{memory:.2f} GiB, {memory / 16:.1%} of it" and told["temporary"] == "2.00 GiB"
    assert told["state and batch"] == f"{state / 2**30:.2f} GiB" and told["results"] == "1.00 MiB"
    assert told["FLOPs per device"] == "3.94e+14: 2 s at peak"
    assert told["collectives"] == "2 all-gather (1.00 GiB), 3 all-reduce (1.00 MiB)"
    assert told["step-time floor"] == "2 s (FLOPs at peak)" and told["not in the floors"] == "collectives"
    few = Estimate("v5e:2x2", 4, state, state, state, 0, 0.5 * device.flops, {})
    told = rows("\n".join(lines(model(), few)))
    assert told["step-time floor"] == "1 s (memory bandwidth)" and told["collectives"] == "none"
    assert told["bytes per device"] == f"{2 * state / 2**30:.2f} GiB read or written at least: 1 s"
    assert 'at the matmul precision "highest" float32 takes six times as long' in told["not in the floors"]


def test_the_table_of_a_call_by_hand():
    """A prompt of 10 ms of products, 10 more tokens of 4 ms of memory each: 8 texts of 11 tokens in 50 ms."""
    device = KINDS["v5e"]
    weights, cache, token = int(3e-3 * device.bandwidth), int(1e-3 * device.bandwidth), 1e-3 * device.flops
    found = Generation(
        "v5e:1x1", 1, weights, cache + 2**20, 0, 0, 20 * token, {},
        rows=8, new_tokens=11, weights=weights, cache=cache, token_flops=token,
    )  # fmt: skip
    told = rows("\n".join(lines(model(dtype=jnp.bfloat16), found)))
    assert told["cache"] == "0.76 GiB" and told["other results"] == "1.00 MiB"
    assert told["FLOPs per device"] == "3.94e+12 a call, 1.97e+11 a further token of each text"
    assert told["first-token floor"] == "10 ms (FLOPs at peak)"
    assert told["next-token floor"].startswith("4 ms (memory bandwidth): 2.29 GiB of weights, 0.76 GiB of cache")
    assert told["call floor"] == f"50 ms, {8 * 11 / 0.05:,.0f} tokens/s (8 texts of 11 new tokens)"


@needs_libtpu
@pytest.mark.slow
def test_the_figures_are_those_of_the_library(folder, capsys):
    changes = ("--rules", "FSDP_TP,length=none,batch=data", "--remat", "--unroll", "--dtype", "float32")
    status, printed, _ = run(capsys, "estimate", folder() / "config.json", *FOUR, *changes)
    assert status == 0
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**sizes("GPT2")), remat=True, unroll=True)
    expected = estimate.train_step(
        model, optax.adamw(1e-4), topology="v5e:2x2", axes={"data": 2, "model": 2}, rules=jm.sharding.FSDP_TP,
        batch=8, length=16, prng="rbg",
    )  # fmt: skip
    told = rows(printed)
    assert told["memory per device"].startswith(f"{expected.memory / 2**20:.2f} MiB")
    assert told["FLOPs per device"].startswith(f"{expected.flops:.3g}: ")
    assert (
        sum(map(int, re.findall(r"(\d+) [a-z]", told["collectives"])))
        == sum(each.count for each in expected.collectives.values())
        > 0
    )


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "devices", "memory"),
    [("v4:2x2x1", 4, 32), ("v5e:2x2", 4, 16), ("v5p:2x2x1", 4, 95), ("v6e:2x2", 4, 32), ("tpu7x:2x2x1", 8, 96)],
)
def test_what_is_said_of_every_kind_is_said_of_its_devices(folder, capsys, topology, devices, memory):
    """The limit that the compiler names is what a device has, to a gigabyte or so."""
    options = ("--topology", topology, "--mesh", f"data={devices}", "--rules", "DP", "--length", "16")
    status, printed, _ = run(capsys, "estimate", folder(), *options, "--batch", "8")
    assert status == 0 and rows(printed)["slice"] == f"{topology}, {devices} x {memory} GiB"
    status, _, errors = run(capsys, "estimate", folder(), *options, "--batch", str(2**27))
    limit = re.search(r"does not fit the devices: .*exceeds available HBM \(([0-9.]+)G\)", errors)
    assert status == 2 and limit and abs(float(limit[1]) - memory) < 1.5, errors


@needs_libtpu
@pytest.mark.slow
def test_an_led_has_its_targets_and_global_tokens(folder, capsys):
    """Global tokens take more operations; targets of a length that the decoder lacks positions for are refused."""
    counts = []
    for change in ((), ("--global-tokens", "2")):
        change = ("--target-length", "4", *change)
        status, printed, _ = run(capsys, "estimate", folder("LEDForConditionalGeneration"), *ONE, *change)
        assert status == 0
        counts.append(float(rows(printed)["FLOPs per device"].split(":")[0]))
    assert counts[0] < counts[1]
    assert run(capsys, "estimate", folder("LEDForConditionalGeneration"), *ONE, "--target-length", "99")[0] == 2


@needs_libtpu
def test_options_reach_the_library(folder):
    """Without the compiler, which takes seconds: what the library is asked."""
    changes = ("--rules", "FSDP,embed=data+model,mlp=none", "--param-dtype", "bfloat16", "--prng", "threefry2x32")
    more = ("--target-length", "5", "--global-tokens", "3", "--class", "AutoModelForSeq2SeqLM")
    function, (model, _), asked = asked_of(folder("LEDForConditionalGeneration"), *FOUR, *changes, *more)
    assert function is estimate.train_step
    assert type(model) is jm.LEDForConditionalGeneration and model.max_global_tokens == 3
    assert (model.dtype, model.param_dtype, model.remat) == (jnp.bfloat16, jnp.bfloat16, False)
    rules = {**jm.sharding.FSDP, "embed": ("data", "model"), "mlp": None}
    assert asked == {
        "topology": "v5e:2x2", "axes": {"data": 2, "model": 2}, "rules": rules, "batch": 8, "length": 16,
        "further": {"labels": (8, 5), "global_attention_mask": (8, 16)}, "prng": "threefry2x32",
    }  # fmt: skip


@needs_libtpu
def test_options_of_a_generation_reach_the_library(folder):
    more = ("--new-tokens", "7", "--beams", "3", "--cache-dtype", "int8", "--global-tokens", "2")
    led = folder("LEDForConditionalGeneration")
    function, (model,), asked = asked_of(led, *FOUR, "--program", "generate", *more)
    assert function is estimate.generate
    assert (model.dtype, model.param_dtype, model.max_global_tokens) == (jnp.bfloat16, jnp.bfloat16, 2)
    assert asked.pop("global_attention_mask").shape == (8, 16)
    assert asked == {
        "topology": "v5e:2x2", "axes": {"data": 2, "model": 2}, "rules": jm.sharding.FSDP_TP, "batch": 8, "length": 16,
        "new_tokens": 7, "num_beams": 3, "cache_dtype": "int8",
    }  # fmt: skip


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("beams", [(), ("--beams", "2")])
def test_a_generation_is_compiled(folder, capsys, beams):
    options = ("--program", "generate", "--new-tokens", "8", *beams)
    status, printed, errors = run(capsys, "estimate", folder(), *FOUR, *options)
    assert status == 0, errors
    told = rows(printed)
    assert told["call floor"].endswith("(8 texts of 8 new tokens)")
    assert {"parameters, inputs", "cache", "first-token floor", "next-token floor", "temporary"} <= told.keys()


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "further"),
    [("DPRContextEncoder", ()), ("GPT2Model", ()), ("LEDModel", ("--target-length", "4")), ("T5Model", ())],
)
def test_a_forward_pass_is_compiled(folder, capsys, name, further):
    status, printed, errors = run(capsys, "estimate", folder(name), *ONE, "--program", "forward", *further)
    assert status == 0, errors
    told = rows(printed)
    assert told["model"].startswith(name) and told["collectives"] == "none" and "parameters, inputs" in told


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("program", [("forward",), ("generate", "--new-tokens", "4")])
def test_a_rag_reads_as_many_documents_as_its_config_says(tmp_path, capsys, program):
    parts = jm.DPRConfig(**sizes("DPR")), jm.BartConfig(**sizes("Bart"), eos_token_id=2, decoder_start_token_id=2)
    config = jm.RagConfig.from_question_encoder_generator_configs(*parts, n_docs=3)
    (tmp_path / "config.json").write_text(config.replace(architectures=("RagTokenForGeneration",)).to_json())
    status, printed, errors = run(capsys, "estimate", tmp_path, *ONE, "--program", *program)
    assert status == 0, errors
    assert rows(printed)["model"].startswith("RagTokenForGeneration")


GENERATE = ("--program", "generate", "--new-tokens", "4")
WRONG = {
    "tokens of another program": (
        ("--new-tokens", "4"),
        "--new-tokens is for --program generate, and this is train; le",
    ),
    "beams of another program": (
        ("--program", "forward", "--beams", "2"),
        "--beams is for --program generate, and this",
    ),
    "a cache of another program": (
        ("--cache-dtype", "int8"),
        "--cache-dtype is for --program generate, and this is tr",
    ),
    "remat of another program": ((*GENERATE, "--remat"), "--remat is for --program train, and this is generate; leave"),
    "dropout of another program": (
        ("--program", "forward", "--prng", "rbg"),
        "--prng is for --program train, and this",
    ),
    "a loop over layers": ((*GENERATE, "--unroll"), "--unroll is for --program train or forward, and this is generate"),
    "targets of another program": (
        (*GENERATE, "--target-length", "3"),
        "--target-length is for --program train or forw",
    ),
    "no number of tokens": (("--program", "generate"), "--program generate needs --new-tokens"),
    "no tokens": (("--program", "generate", "--new-tokens", "0"), "--new-tokens is at least 1, got 0"),
    "too many tokens": ((*GENERATE, "--length", "23"), "a prompt of 23 tokens and 4 new ones are more than the 24"),
    "what does not generate": ((*GENERATE, "--class", "GPT2Model"), "GPT2Model does not generate in one program; give"),
    "no folder": (("--batch", "8"), "is no folder or file here, and as a Hub id its config.json could not be had"),
    "a kind that is none": (("--topology", "v9e:2x2"), "a kind of v4, .*, tpu7x, such as v5e:16x16; got 'v9e:2x2'"),
    "no sizes": (("--topology", "v5e"), "a topology is KIND:AxB or KIND:AxBxC, a kind of"),
    "no such slice": (("--topology", "v5e:3x5"), "the TPU compiler knows no slice 'v5e:3x5'"),
    "a mesh of another size": (("--mesh", "data=3,model=1"), "v5e:2x2 has 4 devices, the mesh .* asks for 3"),
    "a mesh without sizes": (("--mesh", "data"), "--mesh is AXIS=SIZE,AXIS=SIZE such as data=16,model=16; got 'data'"),
    "an axis twice": (("--mesh", "data=2,data=2"), "--mesh names each axis once"),
    "an axis that lacks": (("--mesh", "data=4"), "the mesh axis 'model', which --mesh lacks; add model=1"),
    "rules that are none": (("--rules", "TP"), "--rules begins with one of DP, FSDP, FSDP_TP; got 'TP'"),
    "a rule that is none": (("--rules", "FSDP,width=data"), "--rules changes NAME=MESH_AXIS, a name of batch, .*width"),
    "an odd batch": (("--batch", "7"), "a batch of 7 rows does not divide"),
    "no batch": (("--batch", "0"), "--batch is at least 1, got 0"),
    "too long": (("--length", "32"), "32 tokens are more than the 24 positions"),
    "a class without a loss": (("--class", "GPT2Model"), "GPT2Model has no loss of a language model; give --class"),
    "a class that is none": (("--class", "GPT5"), "there is no class 'GPT5'"),
    "global tokens": (("--global-tokens", "2"), "--global-tokens is for LED, and this is a GPT2LMHeadModel"),
    "targets": (("--target-length", "2"), "--target-length is for encoder-decoders, and this is a GPT2LMHeadModel"),
}


@needs_libtpu
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(folder, capsys, case):
    options, message = WRONG[case]
    source = folder() / "nothing/here/at/all" if case == "no folder" else folder()
    status, printed, errors = run(capsys, "estimate", source, *FOUR, *options)
    assert status == 2 and printed == "" and errors.startswith("python -m jaxmodels estimate: ")
    assert len(errors.splitlines()) == 1 and re.search(message, errors), errors


@needs_libtpu
@pytest.mark.slow
def test_a_step_that_does_not_fit_says_by_how_much(folder, capsys):
    status, _, errors = run(capsys, "estimate", folder(), *ONE, "--batch", str(2**24))
    assert status == 2 and re.search(r"does not fit the devices: .*exceeds available HBM \(15.75G\)", errors), errors


def test_without_the_compiler_it_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, errors = run(capsys, "estimate", folder(), *ONE)
    assert status == 2 and "pip install libtpu" in errors


def test_a_config_that_is_none_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ValueError, match="model_type 'mamba' is none of the families here"):
        asked_of(tmp_path, *ONE)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        asked_of(tmp_path, *ONE)
