"""`jaxmodels estimate`: the printed table, from a config alone."""

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
from jaxmodels.estimate import Collective, Estimate, Generation

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
ONE = ("--topology", "v5e:1x1", "--mesh", "data=1", "--rules", "DP", "--batch", "4", "--length", "16")
FOUR = ("--topology", "v5e:2x2", "--mesh", "data=2,model=2", "--batch", "8", "--length", "16")


@pytest.fixture
def folder(tmp_path):
    """folder(class name) -> a folder that contains only config.json."""

    def write(name: str = "GPT2LMHeadModel"):
        cls = getattr(jm, name)
        config = cls.config_class(**sizes(name)).replace(architectures=(name,), bos_token_id=1, eos_token_id=2)
        (tmp_path / "config.json").write_text(config.to_json())
        return tmp_path

    return write


def parse(*arguments):
    """Returns what the command calls: a function, its positional and its keyword arguments."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.estimate_call(parser.parse_args([str(argument) for argument in arguments]))


def model(**options):
    return jm.GPT2LMHeadModel(jm.GPT2Config(**sizes("GPT2")), **options)


def test_the_table_of_a_training_step():
    """2 s of compute, and a state that is read and written in 1 s; then bound by memory."""
    device = KINDS["v5e"]
    state, sent = int(device.bandwidth / 2), {"all-reduce": Collective(3, 2**20), "all-gather": Collective(2, 2**30)}
    found = Estimate("v5e:2x2", 4, state, state + 2**20, state, 2**31, 2 * device.flops, sent)
    table = rows("\n".join(command.format_table(model(dtype=jnp.bfloat16), found)))
    assert table["slice"] == "v5e:2x2, 4 x 16 GiB"
    memory = (state + 2**20 + 2**31) / 2**30
    assert (
        table["memory per device"] == f"{memory:.2f} GiB, {memory / 16:.1%} of it" and table["temporary"] == "2.00 GiB"
    )
    assert table["state and batch"] == f"{state / 2**30:.2f} GiB" and table["results"] == "1.00 MiB"
    assert table["FLOPs per device"] == "3.94e+14: 2 s at peak"
    assert table["collectives"] == "2 all-gather (1.00 GiB), 3 all-reduce (1.00 MiB)"
    assert table["step-time floor"] == "2 s (FLOPs at peak)" and table["not in the floors"] == "collectives"
    few = Estimate("v5e:2x2", 4, state, state, state, 0, 0.5 * device.flops, {})
    table = rows("\n".join(command.format_table(model(), few)))
    assert table["step-time floor"] == "1 s (memory bandwidth)" and table["collectives"] == "none"
    assert table["bytes per device"] == f"{2 * state / 2**30:.2f} GiB read or written at least: 1 s"
    assert 'at the matmul precision "highest" float32 takes six times as long' in table["not in the floors"]


def test_the_table_of_a_generation():
    """A prefill with 10 ms of compute, 10 more tokens with 4 ms of memory each: 8 sequences of 11 tokens in 50 ms."""
    device = KINDS["v5e"]
    weights, cache, token = int(3e-3 * device.bandwidth), int(1e-3 * device.bandwidth), 1e-3 * device.flops
    found = Generation(
        "v5e:1x1", 1, weights, cache + 2**20, 0, 0, 20 * token, {},
        rows=8, new_tokens=11, weights=weights, cache=cache, token_flops=token,
    )  # fmt: skip
    table = rows("\n".join(command.format_table(model(dtype=jnp.bfloat16), found)))
    assert table["cache"] == "0.76 GiB" and table["other results"] == "1.00 MiB"
    assert table["FLOPs per device"] == "3.94e+12 per call, 1.97e+11 per further token of each sequence"
    assert table["first-token floor"] == "10 ms (FLOPs at peak)"
    assert table["next-token floor"].startswith("4 ms (memory bandwidth): 2.29 GiB of weights, 0.76 GiB of cache")
    assert table["call floor"] == f"50 ms, {8 * 11 / 0.05:,.0f} tokens/s (8 sequences of 11 new tokens)"


@needs_libtpu
@pytest.mark.slow
def test_the_numbers_are_those_of_the_library(folder, capsys):
    changes = ("--rules", "FSDP_TP,length=none,batch=data", "--remat", "--unroll", "--dtype", "float32")
    status, printed, _ = run(capsys, "estimate", folder() / "config.json", *FOUR, *changes)
    assert status == 0
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**sizes("GPT2")), remat=True, unroll=True)
    expected = estimate.train_step(
        model, optax.adamw(1e-4), topology="v5e:2x2", axes={"data": 2, "model": 2}, rules=jm.sharding.FSDP_TP,
        batch=8, length=16,
    )  # fmt: skip
    table = rows(printed)
    assert table["memory per device"].startswith(f"{expected.memory / 2**20:.2f} MiB")
    assert table["FLOPs per device"].startswith(f"{expected.flops:.3g}: ")
    assert (
        sum(map(int, re.findall(r"(\d+) [a-z]", table["collectives"])))
        == sum(each.count for each in expected.collectives.values())
        > 0
    )


@needs_libtpu
@pytest.mark.slow
def test_a_search_prints_options_that_give_its_figures(folder, capsys):
    target = ("--topology", "v5e:2x2", "--batch", "8", "--length", "16")
    status, printed, errors = run(capsys, "estimate", folder(), *target, "--search", "1")
    assert status == 0, errors
    header, row, counts, first = printed.splitlines()
    assert header.split() == ["mesh", "remat", "microbatches", "memory", "FLOPs", "network"]
    assert re.fullmatch(r"compiled: 1 of \d+ candidates, of which 0 did not fit; .*", counts)
    options = first.removeprefix("the first: ").split()
    assert row.split()[0] == options[1] and "batch=data+fsdp" in options[3]
    status, printed, errors = run(capsys, "estimate", folder(), *target, *options)
    assert status == 0, errors
    assert " ".join(row.split()[3:5]) == rows(printed)["memory per device"].split(",")[0]


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "devices", "memory"),
    [("v4:2x2x1", 4, 32), ("v5e:2x2", 4, 16), ("v5p:2x2x1", 4, 95), ("v6e:2x2", 4, 32), ("tpu7x:2x2x1", 8, 96)],
)
def test_the_memory_of_every_type_of_tpu_is_that_of_the_compiler(folder, capsys, topology, devices, memory):
    """The limit in the compiler's error is the memory of a device, up to about a gigabyte."""
    options = ("--topology", topology, "--mesh", f"data={devices}", "--rules", "DP", "--length", "16")
    status, printed, _ = run(capsys, "estimate", folder(), *options, "--batch", "8")
    assert status == 0 and rows(printed)["slice"] == f"{topology}, {devices} x {memory} GiB"
    status, _, errors = run(capsys, "estimate", folder(), *options, "--batch", str(2**27))
    limit = re.search(r"does not fit the devices: .*exceeds available HBM \(([0-9.]+)G\)", errors)
    assert status == 2 and limit and abs(float(limit[1]) - memory) < 1.5, errors


@needs_libtpu
@pytest.mark.slow
def test_an_led_has_targets_and_global_tokens(folder, capsys):
    """Global tokens take more FLOPs; targets longer than the decoder's positions raise."""
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
    """Checks the call without compiling."""
    changes = ("--rules", "FSDP,embed=data+model,mlp=none", "--param-dtype", "bfloat16", "--prng", "threefry2x32")
    more = ("--target-length", "5", "--global-tokens", "3", "--class", "AutoModelForSeq2SeqLM")
    function, (model, _), options = parse(folder("LEDForConditionalGeneration"), *FOUR, *changes, *more)
    assert function is estimate.train_step
    assert type(model) is jm.LEDForConditionalGeneration and model.max_global_tokens == 3
    assert (model.dtype, model.param_dtype, model.remat) == (jnp.bfloat16, jnp.bfloat16, False)
    rules = {**jm.sharding.FSDP, "embed": ("data", "model"), "mlp": None}
    assert options == {
        "topology": "v5e:2x2", "slices": 1, "axes": {"data": 2, "model": 2}, "rules": rules, "batch": 8, "length": 16,
        "microbatches": 1, "further": {"labels": (8, 5), "global_attention_mask": (8, 16)}, "prng": "threefry2x32",
    }  # fmt: skip


@needs_libtpu
def test_options_of_generate_reach_the_library(folder):
    more = ("--new-tokens", "7", "--beams", "3", "--cache-dtype", "int8", "--global-tokens", "2")
    led = folder("LEDForConditionalGeneration")
    function, (model,), options = parse(led, *FOUR, "--program", "generate", *more)
    assert function is estimate.generate
    assert (model.dtype, model.param_dtype, model.max_global_tokens) == (jnp.bfloat16, jnp.bfloat16, 2)
    assert options.pop("global_attention_mask").shape == (8, 16)
    assert options == {
        "topology": "v5e:2x2", "slices": 1, "axes": {"data": 2, "model": 2}, "rules": jm.sharding.FSDP_TP,
        "batch": 8, "length": 16, "new_tokens": 7, "num_beams": 3, "cache_dtype": "int8",
    }  # fmt: skip


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("beams", [(), ("--beams", "2")])
def test_a_generation_is_compiled(folder, capsys, beams):
    options = ("--program", "generate", "--new-tokens", "8", *beams)
    status, printed, errors = run(capsys, "estimate", folder(), *FOUR, *options)
    assert status == 0, errors
    table = rows(printed)
    assert table["call floor"].endswith("(8 sequences of 8 new tokens)")
    assert {"parameters, inputs", "cache", "first-token floor", "next-token floor", "temporary"} <= table.keys()


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "further"),
    [("DPRContextEncoder", ()), ("GPT2Model", ()), ("LEDModel", ("--target-length", "4")), ("T5Model", ())],
)
def test_a_forward_pass_is_compiled(folder, capsys, name, further):
    status, printed, errors = run(capsys, "estimate", folder(name), *ONE, "--program", "forward", *further)
    assert status == 0, errors
    table = rows(printed)
    assert table["model"].startswith(name) and table["collectives"] == "none" and "parameters, inputs" in table


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("program", [("forward",), ("generate", "--new-tokens", "4")])
def test_a_rag_has_as_many_documents_as_its_config(tmp_path, capsys, program):
    parts = jm.DPRConfig(**sizes("DPR")), jm.BartConfig(**sizes("Bart"), eos_token_id=2, decoder_start_token_id=2)
    config = jm.RagConfig.from_question_encoder_generator_configs(*parts, n_docs=3)
    (tmp_path / "config.json").write_text(config.replace(architectures=("RagTokenForGeneration",)).to_json())
    status, printed, errors = run(capsys, "estimate", tmp_path, *ONE, "--program", *program)
    assert status == 0, errors
    assert rows(printed)["model"].startswith("RagTokenForGeneration")


GENERATE = ("--program", "generate", "--new-tokens", "4")
INVALID = {
    "tokens of another program": (
        ("--new-tokens", "4"),
        "--new-tokens is for --program generate, got train; leave it out",
    ),
    "beams of another program": (
        ("--program", "forward", "--beams", "2"),
        "--beams is for --program generate, got forward",
    ),
    "a cache of another program": (
        ("--cache-dtype", "int8"),
        "--cache-dtype is for --program generate, got train",
    ),
    "remat of another program": ((*GENERATE, "--remat"), "--remat is for --program train, got generate; leave"),
    "dropout of another program": (
        ("--program", "forward", "--prng", "rbg"),
        "--prng is for --program train, got forward",
    ),
    "a loop over layers": ((*GENERATE, "--unroll"), "--unroll is for --program train or forward, got generate"),
    "targets of another program": (
        (*GENERATE, "--target-length", "3"),
        "--target-length is for --program train or forw",
    ),
    "no number of tokens": (("--program", "generate"), "--program generate requires --new-tokens"),
    "no tokens": (("--program", "generate", "--new-tokens", "0"), "--new-tokens must be at least 1, got 0"),
    "too many tokens": ((*GENERATE, "--length", "23"), "a prompt of 23 tokens and 4 new ones are more than the 24"),
    "class that cannot generate": (
        (*GENERATE, "--class", "GPT2Model"),
        "GPT2Model does not generate in one program; pass",
    ),
    "no folder": (("--batch", "8"), "is neither a folder nor a file, and the Hub does not provide its config.json"),
    "unknown type": (("--topology", "v9e:2x2"), "a kind of v4, .*, tpu7x, such as v5e:16x16; got 'v9e:2x2'"),
    "a search with a mesh": (("--search",), "--search finds --mesh, .*; leave out --mesh"),
    "no sizes": (("--topology", "v5e"), "topology must be KIND:AxB or KIND:AxBxC, with a kind of"),
    "unsupported slice": (("--topology", "v5e:3x5"), "the TPU compiler does not support the slice 'v5e:3x5'"),
    "a mesh of another size": (("--mesh", "data=3,model=1"), "a mesh .*'data': 3.* does not fit 4 devices"),
    "a mesh without sizes": (
        ("--mesh", "data"),
        "--mesh must be AXIS=SIZE,AXIS=SIZE, such as data=16,model=16; got 'data'",
    ),
    "duplicate axis": (("--mesh", "data=2,data=2"), "--mesh must name each axis once"),
    "missing axis": (("--mesh", "data=4"), "the mesh axis 'model', which --mesh lacks; add model=1"),
    "unknown rules": (("--rules", "TP"), "--rules must start with one of DP, FSDP, FSDP_TP; got 'TP'"),
    "unknown rule": (
        ("--rules", "FSDP,width=data"),
        "changes in --rules must be NAME=MESH_AXIS, with a name of batch, .*width",
    ),
    "an odd batch": (("--batch", "7"), "a batch of 7 examples does not divide"),
    "no batch": (("--batch", "0"), "--batch must be at least 1, got 0"),
    "too long": (("--length", "32"), "32 tokens are more than the 24 positions"),
    "a class without a loss": (("--class", "GPT2Model"), "GPT2Model has no language modelling loss; pass --class"),
    "unknown class": (("--class", "GPT5"), "there is no class 'GPT5'"),
    "global tokens": (("--global-tokens", "2"), "--global-tokens is for LED, got GPT2LMHeadModel"),
    "targets": (("--target-length", "2"), "--target-length is for encoder-decoders, got GPT2LMHeadModel"),
}


@needs_libtpu
@pytest.mark.parametrize("case", INVALID)
def test_errors_are_printed_in_one_line(folder, capsys, case):
    options, message = INVALID[case]
    source = folder() / "nothing/here/at/all" if case == "no folder" else folder()
    status, printed, errors = run(capsys, "estimate", source, *FOUR, *options)
    assert status == 2 and printed == "" and errors.startswith("jaxmodels estimate: ")
    assert len(errors.splitlines()) == 1 and re.search(message, errors), errors


@needs_libtpu
@pytest.mark.slow
def test_a_program_that_does_not_fit_raises_with_the_limit(folder, capsys):
    status, _, errors = run(capsys, "estimate", folder(), *ONE, "--batch", str(2**24))
    assert status == 2 and re.search(r"does not fit the devices: .*exceeds available HBM \(15.75G\)", errors), errors


def test_without_the_compiler_the_error_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, errors = run(capsys, "estimate", folder(), *ONE)
    assert status == 2 and "pip install libtpu" in errors


def test_an_invalid_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ValueError, match="model_type 'mamba' is none of the families here"):
        parse(tmp_path, *ONE)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        parse(tmp_path, *ONE)
