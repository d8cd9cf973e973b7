"""Saved folders load in PyTorch without missing or unexpected names (docs/parity.md, C16)."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from support.arrays import close, ids
from support.tiny import CLASSES, tiny

import jaxmodels as jm


def in_torch(name, folder, **options):
    model, report = getattr(transformers, name).from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return model.eval()


def agree(model, params, reference):
    input_ids = ids((2, 3, 5) if "MultipleChoice" in type(model).__name__ else (2, 5), low=3)
    input_ids[..., -1] = 2  # LED's classification uses the hidden state at the only eos token
    inputs = {name: input_ids for name in model.dummy_inputs()}
    first = jax.jit(lambda p: model.apply({"params": p}, **inputs)[0])(params)
    close(first, reference(**{name: torch.tensor(array) for name, array in inputs.items()})[0].detach())


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("C16")
def test_every_class_loads_in_torch(name, shards, tmp_path):
    model, params = tiny(name, num_labels=2)
    jm.save(tmp_path, model, params, **({"max_shard_size": "20KB"} if shards else {}))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
    reference = in_torch(name, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]
    agree(model, params, reference)


@pytest.mark.parametrize(
    "options", [{"add_cross_attention": True}, {"tie_word_embeddings": False}, {"n_inner": 20}], ids=str
)
@pytest.mark.parity("C16")
def test_variants_load_in_torch(options, tmp_path):
    model, params = tiny(**options)
    jm.save(tmp_path, model, params)
    agree(model, params, in_torch("GPT2LMHeadModel", tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {"is_decoder": True, "add_cross_attention": True},
        {"tie_word_embeddings": False},
        {"position_embedding_type": "relative_key_query"},
    ],
    ids=str,
)
@pytest.mark.parity("C16")
def test_variants_of_roberta_load_in_torch(options, tmp_path):
    name = "RobertaPreLayerNormForCausalLM" if "is_decoder" in options else "RobertaPreLayerNormForMaskedLM"
    model, params = tiny(name, **options)
    jm.save(tmp_path, model, params)
    agree(model, params, in_torch(name, tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parity("C16")
def test_half_precision_bits_are_preserved(dtype, tmp_path):
    model, params = tiny()
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    jm.save(tmp_path, model, params)
    table = in_torch("GPT2LMHeadModel", tmp_path, dtype="auto").transformer.wte.weight
    assert table.dtype == getattr(torch, dtype)
    saved = np.asarray(params["transformer"]["wte"]["embedding"]).view("int16")
    np.testing.assert_array_equal(table.detach().view(torch.int16).numpy(), saved)


@pytest.mark.parity("C16")
def test_shards_respect_max_shard_size_and_match_the_index(tmp_path):
    model, params = tiny()
    jm.save(tmp_path, model, params, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert (
        files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)] and len(files) > 3
    )
    assert files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    total = 0
    for file in files:
        tensors = load_file(tmp_path / file)
        assert {index["weight_map"][name] for name in tensors} == {file}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 20_000
        total += size
    assert index["metadata"]["total_size"] == total == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


@pytest.mark.parity("C16")
def test_tensor_larger_than_a_shard_gets_a_separate_file(tmp_path):
    model, params = tiny()
    jm.save(tmp_path, model, params, max_shard_size=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(in_torch("GPT2LMHeadModel", tmp_path).state_dict()) - 1
    assert jax.tree.all(jax.tree.map(np.array_equal, jm.load(tmp_path)[1], params))


@pytest.mark.parametrize("size", ["5 bananas", "0", "-3MB", "", "MB"])
@pytest.mark.parity("C16")
def test_invalid_shard_size_is_rejected(size, tmp_path):
    with pytest.raises(ValueError, match="max_shard_size"):
        jm.save(tmp_path, *tiny(), max_shard_size=size)


@pytest.mark.parity("C16")
def test_single_file_replaces_shards_and_vice_versa(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "model-notes.safetensors.txt").write_text("mine too")
    for seed, options in enumerate(
        [{"max_shard_size": "20KB"}, {}, {"max_shard_size": "40KB"}, {"max_shard_size": "20KB"}, {}]
    ):
        model, params = tiny(seed=seed)
        jm.save(tmp_path, model, params, **options)
        assert jax.tree.all(jax.tree.map(np.array_equal, jm.load(tmp_path)[1], params))
        held = {path.name for path in tmp_path.iterdir()}
        indexed = "model.safetensors.index.json" in held
        assert indexed == bool(options) and ("model.safetensors" in held) != indexed
        assert len({name.split("-of-")[1] for name in held if "-of-" in name}) == indexed
    assert held == {"README.md", "model-notes.safetensors.txt", "config.json", "model.safetensors"}
