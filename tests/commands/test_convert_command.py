"""`jaxmodels convert`: every format gives the same tensors, with the tokenizer; and the printed summary."""

import json
import re
import shutil
import subprocess
import sys

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.command_samples import rows, run

import jaxmodels as jm
from jaxmodels.parameters import unflatten

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", "vocab.json"}


def write_format(source, folder, file_format: str):
    """Writes a copy of the checkpoint in another format."""
    folder.mkdir()
    shutil.copyfile(source / "config.json", folder / "config.json")
    tensors = load_file(source / "model.safetensors")
    if file_format in ("zip", "legacy"):
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=file_format == "zip")
    elif file_format == "msgpack":
        (folder / "flax_model.msgpack").write_bytes(
            flax.serialization.msgpack_serialize(unflatten(flax_tensors(tensors)))
        )
    else:
        jm.save(folder, *jm.load(source), max_shard_size="10KB")
        assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder


def flax_tensors(tensors) -> dict[str, np.ndarray]:
    """Returns GPT-2's tensors with the names and the layout of transformers' Flax models."""
    tree = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        if last == "weight":
            last = "embedding" if path[-1] in ("wte", "wpe") else "scale" if path[-1].startswith("ln") else "kernel"
        # FlaxConv1D stores its kernel as [out,in].
        tree["/".join([*path, last])] = np.ascontiguousarray(tensor.T) if last == "kernel" else tensor
    return tree


@pytest.mark.parametrize("file_format", ["zip", "legacy", "sharded", "msgpack"])
def test_every_format_gives_the_same_safetensors(checkpoints, tmp_path, capsys, file_format):
    source = checkpoints("gpt2")
    status, printed, errors = run(
        capsys, "convert", write_format(source, tmp_path / "in", file_format), tmp_path / "out"
    )
    assert status == 0 and errors == ""
    expected, written = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    assert {name: tensor.tobytes() for name, tensor in written.items()} == {
        name: tensor.tobytes() for name, tensor in expected.items()
    }
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads((source / "config.json").read_text())
    table = rows(printed)
    count = sum(tensor.size for tensor in expected.values())
    assert table["class"] == "GPT2LMHeadModel" and table["parameters"] == f"{count:,}, float32"
    assert table["bytes"] == f"{4 * count:,}" and table["tokenizer"] == "none in the source"
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert f"model.safetensors ({size:,} bytes)" in table["written"] and "note" not in table


def test_the_dtype_is_that_of_the_source_by_default(checkpoints, tmp_path, capsys):
    """Not that of the config, which may tell how the model was trained."""
    source, half = tmp_path / "in", tmp_path / "half"
    shutil.copytree(checkpoints("gpt2"), source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    run(capsys, "convert", source, tmp_path / "same")
    assert {tensor.dtype for tensor in load_file(tmp_path / "same/model.safetensors").values()} == {np.dtype("float32")}
    _, printed, _ = run(capsys, "convert", source, half, "--dtype", "bfloat16", "--max-shard-size", "9KB")
    assert rows(printed)["parameters"].endswith(", bfloat16") and "model-00001-of-0000" in printed
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "bfloat16"
    _, before = jm.load(source)
    _, after = jm.load(half)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)), before, after
    )


def test_the_tokenizer_is_copied_unchanged(checkpoints, tmp_path, capsys):
    source = checkpoints("gpt2")
    assert run(capsys, "convert", source, tmp_path)[0] == 0
    for name in TOKENIZER:
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes(), name
    text = "the harbour — é"
    ids = [jm.load_tokenizer(folder)(text)["input_ids"].tolist() for folder in (tmp_path, source)]
    assert ids[0] == ids[1]


def test_a_checkpoint_is_converted_in_place(checkpoints, tmp_path, capsys):
    folder = write_format(checkpoints("gpt2"), tmp_path / "here", "zip")
    assert run(capsys, "convert", folder, folder)[0] == 0
    assert (folder / "model.safetensors").is_file() and run(capsys, "verify", folder, checkpoints("gpt2"))[0] == 0


OLD_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("spiece.model", "tokenizer.model"),
    *("generation_config.json", "model.safetensors.index.json", "model-00001-of-00009.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "tf_model.h5"),
    *("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-00002-of-00002.msgpack"),
    *("question_encoder_tokenizer/vocab.txt", "generator_tokenizer/merges.txt"),
)
USER_FILES = ("README.md", "training.log", ".git/HEAD", "optimizer.bin", "generator_tokenizer/notes.txt")


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def occupied(tmp_path):
    """A folder with files of other models and of the user."""
    target = tmp_path / "target"
    for name in (*OLD_FILES, *USER_FILES):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(f"old {name}")
    return target


def test_files_of_a_previous_model_are_removed(checkpoints, occupied, capsys):
    before, source = contents(occupied), contents(checkpoints("gpt2"))
    assert run(capsys, "convert", checkpoints("gpt2"), occupied)[0] == 0
    after = contents(occupied)
    assert {name: after.pop(name) for name in USER_FILES} == {name: before[name] for name in USER_FILES}
    assert after.keys() == {"config.json", "model.safetensors", *TOKENIZER}
    assert {name: after[name] for name in TOKENIZER} == {name: source[name] for name in TOKENIZER}
    assert not (occupied / "question_encoder_tokenizer").exists()


def test_a_damaged_source_leaves_the_target_unchanged(checkpoints, occupied, tmp_path, capsys):
    source, before = tmp_path / "in", contents(occupied)
    shutil.copytree(checkpoints("gpt2"), source)
    with open(source / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    status, printed, errors = run(capsys, "convert", source, occupied)
    assert status == 2 and printed == "" and len(errors.splitlines()) == 1 and "model.safetensors" in errors
    assert contents(occupied) == before


@pytest.mark.parametrize("limit", [10_000, 1_000], ids=["the weights", "the config"])
def test_a_full_disk_leaves_the_target_unchanged(checkpoints, occupied, limit):
    """A limit of the file size simulates a full disk: a write fails at some byte."""
    before = contents(occupied)
    program = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    program += "from jaxmodels.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "convert", checkpoints("gpt2"), occupied]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr.splitlines()[-1] or "File too large" in done.stderr.splitlines()[-1]
    assert contents(occupied) == before


def test_initialised_and_unused_weights_are_named(checkpoints, data_dir, tmp_path, capsys):
    changed = ("--class", "GPT2ForTokenClassification", "--seed", "5")
    status, printed, errors = run(capsys, "convert", checkpoints("gpt2"), tmp_path / "a", *changed)
    assert status == 0 and errors == "" and "initialised" in rows(printed)["note"]
    with pytest.warns(UserWarning, match="initialised"):
        _, params = jm.load(checkpoints("gpt2"), cls=jm.GPT2ForTokenClassification, key=jax.random.key(5))
    written = load_file(tmp_path / "a/model.safetensors")
    np.testing.assert_array_equal(written["classifier.weight"], np.asarray(params["classifier"]["kernel"]).T)

    bert = data_dir / "checkpoints/bert-xsmall-dummy"
    _, printed, _ = run(capsys, "convert", bert, tmp_path / "b", "--class", "DPRQuestionEncoder")
    assert (
        "unused by this class: pooler.dense.weight" in rows(printed)["note"]
        and rows(printed)["tokenizer"] == "vocab.txt"
    )


def test_a_bart_is_converted_to_an_led_with_its_tokenizer(checkpoints, tmp_path, capsys):
    source, sizes = checkpoints("bart"), ("--attention-window", "8", "--max-positions", "48")
    status, printed, _ = run(capsys, "convert", source, tmp_path, "--to-led", *sizes)
    assert status == 0 and rows(printed)["class"] == "LEDForConditionalGeneration"
    model, params = jm.load(tmp_path)
    _, expected = jm.led_from_bart(*jm.load(source), attention_window=8, max_encoder_position_embeddings=48)
    assert type(model) is jm.LEDForConditionalGeneration and model.config.windows == (8,)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    tokenizer = jm.load_tokenizer(tmp_path)
    assert type(tokenizer) is jm.LEDTokenizer and tokenizer.model_max_length == 48


@pytest.mark.parity("A18")
def test_both_tokenizers_of_a_rag_are_copied(tmp_path, cases_dir, checkpoints, capsys):
    source = tmp_path / "in"
    shutil.copytree(cases_dir / "rag_model_bart/checkpoint", source)
    for folder, family in (("question_encoder_tokenizer", "gpt2"), ("generator_tokenizer", "bart")):
        shutil.copytree(checkpoints(family), source / folder)
    assert run(capsys, "convert", source, tmp_path / "out")[0] == 0
    assert (tmp_path / "out/generator_tokenizer/vocab.json").is_file()
    assert not list(tmp_path.glob("out/*/model.safetensors"))
    jm.RagTokenizer.from_pretrained(tmp_path / "out")


INVALID = {
    "no folder": (("nothing/at/all",), "neither a local folder nor a Hub id"),
    "unknown class": (("gpt2", "--class", "GPT3"), "there is no class 'GPT3'"),
    "another family's class": (("gpt2", "--class", "T5Model"), "T5Model takes a T5Config"),
    "LED from a GPT-2": (("gpt2", "--to-led"), "an LED starts from BartModel or BartForConditionalGeneration"),
    "a window without an LED": (("gpt2", "--attention-window", "4"), "require --to-led"),
    "invalid size": (("gpt2", "--max-shard-size", "5XB"), "max_shard_size must be a number of bytes"),
    "no weights": (("bare",), "no weights in .*bare"),
    "weights of another size": (("mismatched",), "does not match the model"),
}


@pytest.mark.parametrize("case", INVALID)
def test_errors_are_printed_in_one_line_and_nothing_is_written(checkpoints, tmp_path, capsys, case):
    (source, *options), message = INVALID[case]
    if source in ("bare", "mismatched"):
        shutil.copytree(checkpoints("gpt2"), tmp_path / source)
        (tmp_path / "bare/model.safetensors").unlink(missing_ok=True)
        config = json.loads((tmp_path / source / "config.json").read_text())
        (tmp_path / source / "config.json").write_text(json.dumps({**config, "n_positions": 32}))
        source = tmp_path / source
    elif source == "gpt2":
        source = checkpoints("gpt2")
    status, printed, errors = run(capsys, "convert", source, tmp_path / "out", *options)
    assert status == 2 and printed == "" and len(errors.splitlines()) == 1
    assert errors.startswith("jaxmodels convert: ")
    assert re.search(message, errors), errors
    assert not (tmp_path / "out/config.json").exists()
