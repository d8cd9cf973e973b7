"""Validation of config fields, with NumPy and JAX scalars as numbers (docs/parity.md, C1)."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmodels as jm


@pytest.mark.parametrize("make", [int, np.int32, np.int64, np.uint8, jnp.int32, jnp.uint32, np.array])
@pytest.mark.parity("C1")
def test_numpy_and_jax_integers_are_accepted(make):
    config = jm.GPT2Config(n_layer=make(3), eos_token_id=[make(2), 5], pruned_heads={1: [make(0)]})
    assert config == jm.GPT2Config(n_layer=3, eos_token_id=[2, 5], pruned_heads={"1": [0]})
    assert type(config.n_layer) is int
    json.loads(config.to_json())


@pytest.mark.parametrize("make", [float, np.float32, np.float64, jnp.float32, jnp.bfloat16, ml_dtypes.bfloat16])
@pytest.mark.parity("C1")
def test_numpy_and_jax_floats_and_ints_are_accepted_as_floats(make):
    config = jm.GPT2Config(resid_pdrop=make(0.5), embd_pdrop=0)
    assert (config.resid_pdrop, config.embd_pdrop) == (0.5, 0.0) and type(config.embd_pdrop) is float
    assert hash(config) == hash(jm.GPT2Config(resid_pdrop=0.5, embd_pdrop=0.0))


@pytest.mark.parity("C1")
def test_traced_number_is_rejected():
    with pytest.raises(ValueError, match="n_layer must be a positive int"):
        jax.jit(lambda n: jm.GPT2Config(n_layer=n).n_embd)(2)
    with pytest.raises(ValueError, match="resid_pdrop must be a rate"):
        jax.jit(lambda rate: jm.GPT2Config(resid_pdrop=rate).n_embd)(0.5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale_attn_weights", "false", "scale_attn_weights must be true or false, got 'false'"),
        ("n_layer", True, "n_layer must be a positive int .*got True"),
        ("num_hidden_layers", 2.0, "num_hidden_layers must be a positive int .*got 2.0"),
        ("layer_norm_epsilon", float("nan"), "layer_norm_epsilon must be a rate .*got nan"),
        ("resid_pdrop", "0.1", "resid_pdrop must be a rate .*got '0.1'"),
        ("id2label", ["a"], "id2label must be a mapping .*got \\['a'\\]"),
        ("id2label", {"0": 1}, "id2label must be a mapping"),
        ("id2label", {"0": "a", 0: "b"}, "id2label must be a mapping"),
        ("id2label", {}, "id2label must have at least one label"),
        ("eos_token_id", 2**31, f"eos_token_id must be a token id.*got {2**31}"),
        ("pad_token_id", -1, "pad_token_id must be a token id.*got -1"),
        ("eos_token_id", [], "eos_token_id must be a token id, several, or None"),
        ("torch_dtype", "int8", "torch_dtype must be the name of a floating type"),
        ("max_length", object(), "max_length must be a JSON value"),
    ],
)
@pytest.mark.parity("C1")
def test_error_states_class_key_expected_and_value(key, value, message):
    with pytest.raises(ValueError, match=f"GPT2Config: {message}"):
        jm.GPT2Config.from_dict({key: value})
    with pytest.raises(ValueError, match=f"GPT2Config: {message}"):
        jm.GPT2Config(**{key: value})


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (jm.GPT2Config, {"n_layer": 10**9}),
        (jm.GPT2Config, {"n_embd": 10**9}),
        (jm.GPT2Config, {"vocab_size": 10**12}),
        (jm.GPT2Config, {"n_positions": 10**12}),
        (jm.GPT2Config, {"num_labels": 10**9}),
        (jm.GPT2Config, {"n_layer": 60_000, "n_embd": 2**24, "n_head": 2**8}),
        (jm.T5Config, {"d_kv": 2**20, "num_heads": 2**16, "d_model": 2**20}),
        (jm.LEDConfig, {"encoder_layers": 10**9}),
        (jm.BartConfig, {"decoder_layers": 10**9}),
    ],
)
@pytest.mark.parity("C1")
def test_impossible_sizes_are_rejected(cls, values):
    with pytest.raises(ValueError, match="at most|too many for any machine"):
        cls(**values)


@pytest.mark.parity("C1")
def test_trillions_of_parameters_are_accepted():
    gpt2 = jm.GPT2Config(n_layer=1000, n_embd=2**16, n_head=128, vocab_size=10**6, n_positions=10**6)
    t5 = jm.T5Config(d_model=2**15, d_ff=2**18, num_heads=256, num_layers=500, vocab_size=10**7)
    assert (gpt2.n_layer, gpt2.n_embd, t5.vocab_size) == (1000, 2**16, 10**7)
