"""Saved models load again bit for bit (docs/parity.md, C16)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import CLASSES, tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

VARIANTS = {
    "plain": {},
    "cross": {"add_cross_attention": True},
    "untied": {"tie_word_embeddings": False},
    "one-layer": {"n_layer": 1},
    "summary": {"summary_proj_to_labels": False},
    "labels": {"num_labels": 5},
}


def same_bits(got: dict, expected: dict) -> None:
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    for path, leaf in expected.items():
        assert got[path].dtype == leaf.dtype, path
        bits = f"uint{8 * leaf.dtype.itemsize}"
        np.testing.assert_array_equal(np.asarray(got[path]).view(bits), np.asarray(leaf).view(bits), err_msg=path)


def cast(params: dict, dtype) -> dict:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("C16")
def test_every_class_round_trips(name, tmp_path):
    model, params = tiny(name)
    jm.save(tmp_path, model, params)
    loaded, again = jm.load(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.replace(architectures=None, torch_dtype=None) == model.config
    same_bits(again, params)


ROBERTA_VARIANTS = {
    "cross": {"is_decoder": True, "add_cross_attention": True},
    "untied": {"tie_word_embeddings": False},
    "relative": {"position_embedding_type": "relative_key"},
    "one-layer": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("variant", ROBERTA_VARIANTS)
@pytest.mark.parity("C16")
def test_roberta_variants_round_trip(variant, tmp_path):
    model, params = tiny("RobertaPreLayerNormForMaskedLM", **ROBERTA_VARIANTS[variant])
    jm.save(tmp_path, model, params)
    same_bits(jm.load(tmp_path)[1], params)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parity("C16")
def test_variants_round_trip(variant, tmp_path):
    model, params = tiny("GPT2DoubleHeadsModel", **VARIANTS[variant])
    jm.save(tmp_path, model, params)
    same_bits(jm.load(tmp_path)[1], params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parity("C16")
def test_special_values_round_trip_bit_for_bit(dtype, tmp_path):
    model, params = tiny()
    params = cast(params, dtype)
    special = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan, jnp.finfo(dtype).tiny / 2, jnp.finfo(dtype).max], dtype)
    params["transformer"]["wte"]["embedding"] = params["transformer"]["wte"]["embedding"].at[3, :7].set(special)
    jm.save(tmp_path, model, params)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype
    model, again = jm.load(tmp_path, dtype="auto", param_dtype="auto")
    assert model.dtype == model.param_dtype == dtype
    same_bits(again, params)


@pytest.mark.parity("C16")
def test_dtype_and_param_dtype_of_load(tmp_path):
    model, params = tiny()
    jm.save(tmp_path, model, cast(params, "bfloat16"))
    model, loaded = jm.load(tmp_path)  # float32 whatever the dtype of the file
    assert model.dtype == model.param_dtype == jnp.float32
    same_bits(loaded, cast(cast(params, "bfloat16"), "float32"))
    model, loaded = jm.load(tmp_path, dtype="bfloat16", param_dtype="float32")
    assert (model.dtype, model.param_dtype) == (jnp.bfloat16, jnp.float32)
    same_bits(loaded, cast(cast(params, "bfloat16"), "float32"))
    model, loaded = jm.load(tmp_path, dtype="float16", param_dtype="float16")
    same_bits(loaded, cast(cast(params, "bfloat16"), "float16"))


@pytest.mark.parity("C16")
def test_mixed_dtypes_are_preserved(tmp_path):
    model, params = tiny()
    params = cast(params, "bfloat16")
    params["transformer"]["ln_f"] = cast(params["transformer"]["ln_f"], "float32")
    jm.save(tmp_path, model, params)
    _, again = jm.load(tmp_path)
    same_bits(again, cast(params, "float32"))


@pytest.mark.parametrize("dtype", ["int32", "bool"])
@pytest.mark.parity("C16")
def test_non_floating_dtype_is_rejected(dtype, tmp_path):
    jm.save(tmp_path, *tiny())
    with pytest.raises(ValueError, match="floating type"):
        jm.load(tmp_path, dtype=dtype)


def test_numpy_parameters_can_be_saved(tmp_path):
    model, params = tiny()
    jm.save(tmp_path, model, jax.tree.map(np.asarray, params))
    same_bits(jm.load(tmp_path)[1], params)


@pytest.mark.parity("C16")
def test_config_overrides_apply_on_loading(tmp_path):
    jm.save(tmp_path, *tiny())
    config = jm.load(tmp_path, output_attentions=True, resid_pdrop=0.3)[0].config
    assert config.output_attentions and config.resid_pdrop == 0.3
    with pytest.raises(ValueError, match="no key 'resid_drop'; did you mean 'resid_pdrop'"):
        jm.load(tmp_path, resid_drop=0.3)


def test_run_options_are_passed_to_the_model(tmp_path):
    jm.save(tmp_path, *tiny())
    model, _ = jm.load(tmp_path, attention="xla", remat=True, unroll=True)
    assert (model.attention, model.remat, model.unroll) == ("xla", True, True)


@pytest.mark.parametrize(
    ("change", "message"), [("unexpected", "unexpected: 1"), ("missing", "missing: 1"), ("shape", "different shape: 1")]
)
@pytest.mark.parity("C16")
def test_mismatched_parameters_are_not_saved(change, message, tmp_path):
    model, params = tiny()
    base = params["transformer"]
    if change == "unexpected":
        base["nonsense"] = jnp.zeros(3)
    elif change == "missing":
        del base["ln_f"]["bias"]
    else:
        base["wpe"]["embedding"] = jnp.zeros((23, 32))
    with pytest.raises(jm.WeightsError, match=message) as caught:
        jm.save(tmp_path / "new", model, params)
    assert {"unexpected": "nonsense", "missing": "ln_f/bias", "shape": "wpe/embedding"}[change] in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", ["no folder", "no config", "no weights", "not json", "no model type"])
@pytest.mark.parity("C16")
def test_incomplete_folder_is_rejected(error, tmp_path):
    folder = tmp_path / "model"
    if error == "no folder":
        with pytest.raises(FileNotFoundError, match="neither a local folder nor a Hub id"):
            jm.load(folder)
        return
    jm.save(folder, *tiny())
    config = folder / "config.json"
    if error == "no config":
        config.unlink()
        with pytest.raises(FileNotFoundError, match=r"no config.json; it contains model.safetensors"):
            jm.load(folder)
    elif error == "no weights":
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="no weights in"):
            jm.load(folder)
    elif error == "not json":
        config.write_text(config.read_text()[:-20])
        with pytest.raises(ValueError, match="is not valid JSON"):
            jm.load(folder)
    else:
        config.write_text(json.dumps({"model_type": "bloom"}))
        with pytest.raises(ValueError, match="'bloom' is none of the families here: .*gpt2"):
            jm.load(folder)


@pytest.mark.parity("C16")
def test_unreachable_hub_is_reported():
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is not a local folder, and the Hub"):
        jm.load("nobody/nothing")


@pytest.mark.parity("C16")
def test_subfolder_and_revision(tmp_path):
    model, params = tiny()
    jm.save(tmp_path / "inner", model, params)
    same_bits(jm.load(tmp_path, subfolder="inner")[1], params)
    with pytest.raises(ValueError, match="revision"):
        jm.load(tmp_path / "inner", revision="main")
