"""Options of transformers' from_pretrained in `jm.load`: each works, or is rejected with the equivalent."""

import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import pytest
import torch
from support.tiny import tiny
from transformers import FlaxPreTrainedModel, PreTrainedModel
from transformers.models.auto import auto_factory

import jaxmodels as jm
from jaxmodels.download import HUB_OPTIONS
from jaxmodels.hub.options import ATTENTION_NAMES, UNSUPPORTED
from pallas_kernels import IMPLEMENTATIONS

# Options of release 4.37 and of pipelines that the installed release does not read.
OLDER = {
    "use_flash_attention_2",
    "device",
    "seed",
    "params",
    "input_shape",
    "use_safetensors",
    "user_agent",
    "use_remat",
}
# Internal options that transformers' functions pass to each other.
INNER = {
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "_adapter_model_path",
    "pretrained_model_name_or_path",
    "kwargs",
}
INNER |= {"model_args", "cls"}
# Options of vision models.
BACKBONES = {"features_only", "num_channels", "out_features", "out_indices", "use_pretrained_backbone"}
BACKBONES |= {"use_timm_backbone"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    jm.save(path, *tiny())
    return path


def read_by(function) -> set[str]:
    """Names of the parameters of a function, and of keywords that it reads."""
    taken = re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', inspect.getsource(function))
    return {*taken, *inspect.signature(function).parameters}


def test_every_option_of_the_reference_is_handled():
    theirs = read_by(PreTrainedModel.from_pretrained) | read_by(FlaxPreTrainedModel.from_pretrained)
    theirs |= read_by(auto_factory._BaseAutoModelClass.from_pretrained) | OLDER
    ours = {*inspect.signature(jm.load).parameters, *UNSUPPORTED}
    assert theirs - INNER - BACKBONES <= ours


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_option_is_rejected_with_the_equivalent(name, folder):
    instead, neutral = UNSUPPORTED[name]
    for value in ("something", 7, *({True, False} - set(neutral))):
        with pytest.raises(TypeError, match=f"load has no option {name!r}.*{re.escape(instead)}"):
            jm.load(folder, **{name: value})


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_neutral_value_of_an_unsupported_option_is_accepted(name, folder):
    for value in UNSUPPORTED[name].neutral:
        assert jm.load(folder, **{name: value})[0] == jm.load(folder)[0]


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", jnp.bfloat16, torch.float16, "torch.float16", jnp.dtype("float16")]
)
def test_torch_dtype_sets_dtype_and_param_dtype(dtype, folder):
    model, params = jm.load(folder, torch_dtype=dtype)
    expected = jnp.bfloat16 if "bfloat16" in str(dtype) else jnp.float16
    assert model.dtype == model.param_dtype == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(expected)}


def test_torch_dtype_auto_is_the_dtype_of_the_file(tmp_path):
    model, params = tiny()
    jm.save(tmp_path, model, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params))
    model, params = jm.load(tmp_path, torch_dtype="auto")
    assert model.dtype == model.param_dtype == jnp.bfloat16 == jax.tree.leaves(params)[0].dtype


def test_torch_dtype_must_agree_with_dtype_and_param_dtype(folder):
    assert jm.load(folder, torch_dtype="float16", dtype=jnp.float16)[0].param_dtype == jnp.float16
    for other in ({"dtype": "float32"}, {"param_dtype": "bfloat16"}, {"dtype": "auto"}):
        with pytest.raises(ValueError, match="torch_dtype sets .*; leave one out"):
            jm.load(folder, torch_dtype="float16", **other)


@pytest.mark.parametrize(("theirs", "ours"), [*ATTENTION_NAMES.items(), (None, "auto")])
def test_attn_implementation_is_attention(theirs, ours, folder):
    assert jm.load(folder, attn_implementation=theirs)[0].attention == ours


@pytest.mark.parametrize("bad", ["nonsense", "flash_attention_3", 3, ["eager"]])
def test_unknown_attention_is_rejected_with_both_sets_of_names(bad, folder):
    with pytest.raises(ValueError) as error:
        jm.load(folder, attn_implementation=bad)
    assert all(name in str(error.value) for name in (*ATTENTION_NAMES, *IMPLEMENTATIONS))
    with pytest.raises(ValueError, match="attention is one of auto, xla"):
        jm.load(folder, attention=bad)
    with pytest.raises(ValueError, match="attn_implementation sets attention to 'xla'"):
        jm.load(folder, attn_implementation="eager", attention="xla_blocked")


@pytest.mark.parity("C10")
def test_gradient_checkpointing_is_remat(folder):
    assert jm.load(folder, gradient_checkpointing=True)[0].remat is True
    assert jm.load(folder, gradient_checkpointing=False)[0].remat is False
    with pytest.raises(ValueError, match="gradient_checkpointing sets remat to False"):
        jm.load(folder, gradient_checkpointing=False, remat=True)
    with pytest.raises(ValueError, match="remat is True or False, one of nothing, dots, .*; got 'yes'"):
        jm.load(folder, gradient_checkpointing="yes")


@pytest.mark.parametrize(
    ("name", "near"),
    [("dytpe", "dtype"), ("atention", "attention"), ("revison", "revision"), ("torch_dtyp", "torch_dtype")]
    + [
        ("locl_files_only", "local_files_only"),
        ("trust_remote_cod", "trust_remote_code"),
        ("resid_drop", "resid_pdrop"),
    ],
)
def test_misspelt_option_is_rejected_with_the_closest_name(name, near, folder):
    with pytest.raises((TypeError, ValueError), match=f"{name!r}; did you mean {near!r}"):
        jm.load(folder, **{name: None})


def test_hub_options_are_passed_on(folder, monkeypatch):
    passed = {}

    def download(name, *, allow_patterns, **options):
        passed.update(options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"revision": "v2", "token": "t", "cache_dir": "c", "local_files_only": True, "force_download": True}
    assert {*options} == {*HUB_OPTIONS}
    jm.load("some/repository", **options)
    assert passed == options


@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("bad", ["bogus", "int8", 5, [1], {"a": 1}, True, torch.int64, "float64"])
def test_invalid_dtype_is_rejected(name, bad, folder):
    with pytest.raises(ValueError, match=name):
        jm.load(folder, **{name: bad})


@pytest.mark.parity("C16")
def test_parameters_are_float32_by_default(folder):
    with pytest.warns(FutureWarning, match="the parameters are float32.*pass param_dtype='bfloat16'"):
        model, params = jm.load(folder, dtype="bfloat16")
    assert (model.dtype, model.param_dtype) == (jnp.bfloat16, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settled in ({"dtype": "float32"}, {"dtype": "auto"}, {"dtype": "bfloat16", "param_dtype": "bfloat16"}, {}):
            jm.load(folder, **settled)


def test_unknown_class_error_names_the_closest_class(folder):
    with pytest.raises(ValueError, match="no class 'GPT2LMHeadModle'; did you mean 'GPT2LMHeadModel'"):
        jm.load(folder, cls="GPT2LMHeadModle")
    with pytest.raises(ValueError, match="no class 'FlaxGPT2LMHeadModel'; did you mean 'GPT2LMHeadModel'"):
        jm.load(folder, cls="FlaxGPT2LMHeadModel")
    for bad in (5, dict, [], jm.GPT2Config):
        with pytest.raises(TypeError, match="cls is a class of jaxmodels, its name"):
            jm.load(folder, cls=bad)


def test_from_pretrained_error_names_load():
    with pytest.raises(TypeError, match="jm.load\\(name, cls='GPT2Model'\\)"):
        jm.GPT2Model.from_pretrained("gpt2")
