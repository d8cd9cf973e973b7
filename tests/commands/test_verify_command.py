"""`jaxmodels verify`: intact checkpoints pass, and every type of damage is found and named."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.command_samples import rows, run
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.commands import verify
from jaxmodels.commands.convert import load_checkpoint

CASES = ("gpt2_file_bin", "gpt2_seqcls_single", "bart_generate_greedy", "led_seqcls_single", "rag_model_t5")


@pytest.fixture
def copy(checkpoints, tmp_path):
    """copy(changes of the tensors) -> a folder with a GPT-2."""

    def folder(change=None, **config):
        shutil.copytree(checkpoints("gpt2"), tmp_path / "copy")
        file = tmp_path / "copy/model.safetensors"
        tensors = load_file(file)
        if change is not None:
            change(tensors)
        save_file(tensors, file)
        values = json.loads((tmp_path / "copy/config.json").read_text())
        (tmp_path / "copy/config.json").write_text(json.dumps({**values, **config}))
        return tmp_path / "copy"

    return folder


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_of_torch_are_intact(cases_dir, capsys, case):
    status, printed, errors = run(capsys, "verify", cases_dir / case / "checkpoint")
    assert status == 0 and errors == ""
    table = rows(printed)
    assert table["coverage"].startswith("0 unused tensors, 0 missing parameters, 0 shape mismatches")
    assert re.fullmatch(r"\d+ of float32: all finite", table["tensors"]) and table["forward"].endswith(": all finite")
    assert table["round trip"] == "bitwise equal after loading and saving"


@pytest.mark.parametrize("name", ["DPRReader", "RobertaPreLayerNormForMultipleChoice", "LEDForQuestionAnswering"])
def test_models_with_other_inputs_pass(tmp_path, capsys, name):
    model, params = tiny(name)
    jm.save(tmp_path, model, params)
    assert run(capsys, "verify", tmp_path)[0] == 0


def test_files_of_mixed_dtypes_are_read_without_loss(copy, capsys):
    def halves(tensors):
        for name in list(tensors)[::2]:
            tensors[name] = tensors[name].astype(np.float16)

    status, printed, _ = run(capsys, "verify", copy(halves))
    assert status == 0 and rows(printed)["tensors"] == "28 of float16, float32: all finite"


def test_equal_checkpoints_pass_and_others_differ_by_the_largest_difference(checkpoints, copy, capsys):
    source, step = checkpoints("gpt2"), np.float32(0.125)
    assert run(capsys, "verify", source, source)[0] == 0

    def change(tensors):
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] += step

    other = copy(change)
    status, printed, errors = run(capsys, "verify", source, other)
    table = rows(printed)
    assert status == 2 and re.search("differ by up to .* --tolerance is 0$", errors)
    number, where = re.fullmatch(r"largest difference (\S+), in (\S+)", table["parameters"]).groups()
    assert float(number) == pytest.approx(step, rel=1e-2) and where == "transformer/h/layers/feed_forward/up/kernel"
    first, second = (verify._forward(load_checkpoint(folder), 0)["logits"] for folder in (source, other))
    largest = float(np.abs(first - second).max())
    assert largest > 0 and f"{largest:.3g}" == re.search(r"difference (\S+), in logits", table["outputs"])[1]
    assert run(capsys, "verify", source, other, "--tolerance", "10")[0] == 0
    assert run(capsys, "verify", source, other, "--tolerance", "10", "--seed", "3")[1] != printed


def test_a_conversion_to_bfloat16_differs_by_rounding(checkpoints, tmp_path, capsys):
    source = checkpoints("gpt2")
    run(capsys, "convert", source, tmp_path, "--dtype", "bfloat16")
    status, printed, _ = run(capsys, "verify", source, tmp_path, "--tolerance", "0.2")
    _, params = jm.load(source)
    largest = max(float(np.abs(x - x.astype("bfloat16").astype("float32")).max()) for x in jax.tree.leaves(params))
    assert status == 0 and f"largest difference {largest:.3g}, in" in rows(printed)["parameters"]


def _nan(tensors):
    tensors["transformer.ln_f.weight"][2] = np.nan


def _left(tensors):
    tensors["transformer.h.0.attn.c_proj.weight"] = tensors["transformer.h.0.attn.c_proj.weight"][:8].copy()
    tensors["strange.weight"] = np.ones(3, np.float32)
    del tensors["transformer.ln_f.bias"]


def _untied(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + np.float32(1)


def _tied(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()


DAMAGE = {
    "a NaN": (_nan, "tensors", "28 of float32: 1 with infinities or NaN", "not intact: ln_f.weight$"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_reported(copy, capsys, case):
    change, name, row, message = DAMAGE[case]
    status, printed, errors = run(capsys, "verify", copy(change))
    assert status == 2 and rows(printed)[name] == row and re.search(message, errors.strip()), errors


def test_a_copy_of_a_tied_tensor_passes(copy, capsys):
    status, printed, _ = run(capsys, "verify", copy(_tied))
    assert status == 0 and rows(printed)["copies"] == "1 of tied tensors: equal"


def test_a_conflicting_copy_of_a_tied_tensor_is_named(copy, capsys):
    status, printed, errors = run(capsys, "verify", copy(_untied))
    assert status == 2 and "do not match the model" in errors
    assert "1 conflicting copies" in printed and "wte.weight, lm_head.weight" in printed


def test_unused_missing_and_mismatched_names_are_printed(copy, capsys):
    status, printed, errors = run(capsys, "verify", copy(_left))
    assert status == 2 and "do not match the model" in errors
    for line in ("1 unused tensors", "1 missing parameters", "1 shape mismatches"):
        assert line in printed
    for name in ("strange.weight", "ln_f/bias", "h.0.attn.c_proj.weight"):
        assert name in printed


def test_changes_by_saving_are_reported(checkpoints, capsys, tmp_path):
    """A save that rounds."""
    found = load_checkpoint(checkpoints("gpt2"))
    jm.save(tmp_path, found.model, jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), found.params))
    with pytest.raises(ValueError, match=r"is not intact: (wte\.weight|h\.0\.attn)"):
        verify.check_tensors(found, tmp_path)
    assert rows(capsys.readouterr().out)["round trip"].endswith(" changed by loading and saving")


INVALID = {
    "another model": (("t5",), "a GPT2LMHeadModel and a T5ForConditionalGeneration with different parameters"),
    "missing other": (("/nothing/at/all",), "neither a local folder nor a Hub id"),
    "a tolerance below 0": (("gpt2", "--tolerance", "-1"), "--tolerance must be at least 0, got -1"),
    "unknown class": (("gpt2", "--class", "Nothing"), "there is no class 'Nothing'"),
}


@pytest.mark.parametrize("case", INVALID)
def test_errors_are_printed_in_one_line(checkpoints, capsys, case):
    (other, *options), message = INVALID[case]
    other = other if other.startswith("/") else checkpoints(other)
    status, _, errors = run(capsys, "verify", checkpoints("gpt2"), other, *options)
    assert status == 2 and len(errors.splitlines()) == 1 and message in errors
