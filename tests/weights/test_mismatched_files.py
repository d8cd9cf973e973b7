"""A file that does not match the model raises one error with three lists (docs/parity.md, C16)."""

import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.tiny import tiny

import jaxmodels as jm


def folder_with(path, change, name="GPT2LMHeadModel", **config):
    """A saved model whose tensors were modified by `change`."""
    jm.save(path, *tiny(name, **config))
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parity("C16")
def test_error_lists_unknown_missing_and_mismatched(tmp_path):
    def change(tensors):
        tensors["transformer.h.0.attn.rotary"] = np.zeros(3, np.float32)
        tensors["nonsense.weight"] = np.zeros(3, np.float32)
        del tensors["transformer.ln_f.bias"]
        del tensors["transformer.h.1.mlp.c_fc.weight"]
        tensors["transformer.wpe.weight"] = np.zeros((23, 32), np.float32)
        tensors["transformer.h.0.attn.c_attn.weight"] = np.zeros((96, 32), np.float32)

    with pytest.raises(jm.WeightsError) as caught:
        jm.load(folder_with(tmp_path, change))
    error = caught.value
    assert sorted(error.unknown) == ["h.0.attn.rotary", "nonsense.weight"]
    assert sorted(error.missing) == ["transformer/h/layers/feed_forward/up/kernel", "transformer/ln_f/bias"]
    assert len(error.mismatched) == 2
    assert any("wpe" in line and "(23, 32)" in line and "(24, 32)" in line for line in error.mismatched)
    assert any("c_attn" in line and "(96, 32)" in line and "(32, 96)" in line for line in error.mismatched)
    text = str(error)
    assert str(tmp_path) in text and "GPT2LMHeadModel" in text
    assert all(name in text for name in (*error.unknown, *error.missing, *error.mismatched))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parity("C16")
def test_different_number_of_layers_is_rejected(layers, tmp_path):
    jm.save(tmp_path, *tiny())
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "n_layer": layers}))
    with pytest.raises(jm.WeightsError) as caught:
        jm.load(tmp_path)
    if layers == 1:
        assert "h.1.ln_1.weight" in caught.value.unknown and len(caught.value.unknown) == 12
    else:
        assert "transformer/h/layers/attention/qkv/kernel" in caught.value.missing


@pytest.mark.parity("C16")
def test_unused_cross_attention_is_reported_in_one_warning(tmp_path):
    jm.save(tmp_path, *tiny(add_cross_attention=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jm.load(tmp_path, add_cross_attention=False)
    assert len(caught) == 1 and "crossattention" in str(caught[0].message)


@pytest.mark.parity("C16")
def test_missing_cross_attention_is_initialised_with_one_warning(tmp_path):
    """As in the reference, to turn a language model into the decoder of a sequence-to-sequence model."""
    jm.save(tmp_path, *tiny())
    with pytest.warns(UserWarning, match="initialised.*cross_attention/kv/kernel") as caught:
        params = jm.load(tmp_path, add_cross_attention=True)[1]
    assert len(caught) == 1
    assert np.isfinite(params["transformer"]["h"]["layers"]["cross_attention"]["kv"]["kernel"]).all()


@pytest.mark.parity("C16")
def test_mismatched_labels_need_ignore_mismatched_sizes(tmp_path):
    model, params = tiny("GPT2ForTokenClassification", num_labels=2)
    jm.save(tmp_path, model, params)
    with pytest.raises(jm.WeightsError, match="ignore_mismatched_sizes=True") as caught:
        jm.load(tmp_path, num_labels=5)
    assert len(caught.value.mismatched) == 2 and not caught.value.unknown and not caught.value.missing
    with pytest.warns(UserWarning, match="initialised") as caught:
        loaded, fresh = jm.load(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert len(caught) == 1 and "classifier/kernel" in str(caught[0].message)
    assert loaded.config.num_labels == 5 and fresh["classifier"]["kernel"].shape == (32, 5)
    assert np.isfinite(fresh["classifier"]["kernel"]).all() and np.any(fresh["classifier"]["kernel"])
    np.testing.assert_array_equal(fresh["transformer"]["wte"]["embedding"], params["transformer"]["wte"]["embedding"])


@pytest.mark.parity("C16")
def test_ignore_mismatched_sizes_applies_to_shapes_only(tmp_path):
    def change(tensors):
        del tensors["transformer.ln_f.bias"]

    with pytest.raises(jm.WeightsError, match="ln_f/bias"):
        jm.load(folder_with(tmp_path, change), ignore_mismatched_sizes=True)


@pytest.mark.parity("C16")
def test_matching_number_of_labels_loads(tmp_path):
    jm.save(tmp_path, *tiny("GPT2ForTokenClassification", num_labels=5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jm.load(tmp_path, num_labels=5)[0].config.num_labels == 5
