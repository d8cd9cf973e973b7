"""Loading and saving of T5 checkpoints (docs/parity.md, A20, C9, C16, C17)."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from support.arrays import close
from support.loading import quietly, same
from support.t5_pairs import BATCH, t5_pair
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import unflatten

NAME = "T5ForConditionalGeneration"
# The default classes are also in test_round_trip.py and test_loading_in_torch.py.
VARIANTS = {
    "untied": {"tie_word_embeddings": False},
    "gated": {"feed_forward_proj": "gated-gelu"},
    "uneven": {"num_decoder_layers": 3, "num_layers": 1},
}


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [*((variant, "float32") for variant in VARIANTS), ("gated", "bfloat16"), ("untied", "float16")],
)
@pytest.mark.parity("C16")
def test_variants_round_trip_in_every_dtype(variant, dtype, tmp_path):
    model, params = tiny(NAME, **VARIANTS[variant])
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    jm.save(tmp_path, model, params)
    loaded, again = quietly(tmp_path, dtype="auto", param_dtype="auto")
    assert type(loaded) is type(model) and loaded.dtype == dtype
    same(again, params)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parity("C16")
def test_saved_files_load_in_torch(variant, tmp_path):
    model, params = tiny(NAME, **VARIANTS[variant])
    jm.save(tmp_path, model, params)
    reference, report = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    got = jax.jit(lambda p: model.apply({"params": p}, **BATCH)[0])(params)
    close(got, reference.eval()(**{key: torch.tensor(value) for key, value in BATCH.items()})[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parity("C16")
def test_half_precision_bits_are_preserved_in_torch(dtype, tmp_path):
    model, params = tiny("T5Model")
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    jm.save(tmp_path, model, params)
    table = transformers.T5Model.from_pretrained(tmp_path, dtype="auto").shared.weight
    assert table.dtype == getattr(torch, dtype)
    mine = np.asarray(params["shared"]["embedding"]).view("int16")
    np.testing.assert_array_equal(table.detach().view(torch.int16).numpy(), mine)


@pytest.mark.parity("C16")
def test_base_and_head_files_are_interchangeable_without_warning(tmp_path):
    model, params = tiny(NAME)
    jm.save(tmp_path / "head", model, params)
    same(quietly(tmp_path / "head", cls="T5Model")[1], params)
    jm.save(tmp_path / "base", *tiny("T5Model"))
    same(quietly(tmp_path / "base", cls=NAME)[1], params)


@pytest.mark.parity("C9")
def test_missing_untied_head_is_initialised_with_a_warning(tmp_path):
    jm.save(tmp_path, *tiny("T5Model"))
    with pytest.warns(UserWarning, match="initialised.*lm_head/kernel"):
        _, params = jm.load(tmp_path, cls=NAME, tie_word_embeddings=False)
    assert params["lm_head"]["kernel"].shape == (32, 67)


@pytest.mark.parity("C9")
def test_unused_untied_head_is_reported(tmp_path):
    jm.save(tmp_path, *tiny(NAME, tie_word_embeddings=False))
    with pytest.warns(UserWarning, match="unused.*lm_head.weight"):
        jm.load(tmp_path, cls="T5Model")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parity("C16")
def test_old_torch_files_with_every_copy_of_the_embeddings(tied, tmp_path):
    """`.bin` files of the first releases: the embeddings under three or four names, and an unused bias."""
    both = t5_pair(NAME, tmp_path / "new", tie_word_embeddings=tied)
    tensors = dict(both.reference.state_dict())
    assert {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"} <= tensors.keys()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    both.reference.config.save_pretrained(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    same(quietly(tmp_path)[1], both.params)
    del tensors["shared.weight"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    same(quietly(tmp_path)[1], both.params)


@pytest.mark.parity("C16")
def test_older_flax_files_are_read(tmp_path):
    """Names and layouts of the reference's FlaxT5 (modeling_flax_t5.py), which release 5 removed."""
    flax = pytest.importorskip("flax.serialization")
    both = t5_pair(NAME, tmp_path / "new", feed_forward_proj="gated-gelu")
    tree = {}
    for name, tensor in both.reference.state_dict().items():
        if name.endswith("embed_tokens.weight") or name == "lm_head.weight":
            continue
        module, array = name.removesuffix(".weight"), tensor.numpy()
        if module.endswith(("shared", "relative_attention_bias")):
            path, value = f"{module}.embedding", array
        elif module.endswith("layer_norm"):
            path, value = f"{module}.weight", array
        else:
            path, value = f"{module}.kernel", array.T
        tree[path.replace(".", "/")] = value
    both.reference.config.save_pretrained(tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(flax.msgpack_serialize(unflatten(tree)))
    same(quietly(tmp_path)[1], both.params)


@pytest.mark.parity("C16")
def test_extra_layer_and_missing_gate_are_reported(tmp_path):
    jm.save(tmp_path, *tiny("T5Model", feed_forward_proj="gated-gelu"))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "feed_forward_proj": "relu"}))
    with pytest.raises(jm.WeightsError, match="feed_forward/up/kernel"):
        jm.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_layers": 1}))
    with pytest.raises(jm.WeightsError, match=r"encoder\.block\.1\.layer\.0\.SelfAttention\.q\.weight"):
        jm.load(tmp_path)


@pytest.mark.parity("C16")
def test_head_of_an_unsupported_class_is_reported_as_unused(tmp_path):
    jm.save(tmp_path, *tiny("T5Model"))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["classification_head.dense.weight"] = np.zeros((32, 32), np.float32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="unused.*classification_head.dense.weight"):
        jm.load(tmp_path)


@pytest.mark.parity("C17")
def test_auto_classes(tmp_path):
    jm.save(tmp_path, *tiny(NAME))
    assert type(quietly(tmp_path, cls="AutoModel")[0]) is jm.T5Model
    for auto in ("AutoModelForSeq2SeqLM", "AutoModelForPreTraining", "AutoModelWithLMHead"):
        assert type(quietly(tmp_path, cls=auto)[0]) is jm.T5ForConditionalGeneration
