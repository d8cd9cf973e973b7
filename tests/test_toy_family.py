"""A family that a file outside the package defines and registers works everywhere."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.arrays import ids
from support.tiny import random_params

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.architectures import AUTO, CONFIGS, MODELS, decoder
from jaxmodels.convert import Table
from jaxmodels.parameters import flatten

TOKENS = ids((2, 6))


@pytest.fixture(scope="module", autouse=True)
def toy():
    """The family, registered while this file's tests run."""
    tables = (MODELS, CONFIGS, sharding.AXES, *AUTO.values())
    before = [dict(table) for table in tables]
    yield importlib.import_module("support.toy_family")
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="module")
def model(toy):
    return toy.ToyForCausalLM(toy.ToyConfig())


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


def logits(model, params, tokens):
    return jax.jit(lambda params, tokens: model.apply({"params": params}, tokens).logits)(params, tokens)


def test_saved_and_loaded_by_name_class_model_type_and_auto_class(toy, model, params, tmp_path):
    jm.save(tmp_path, model, params)
    assert {"toy.tokens.weight", "toy.blocks.1.q.weight"} <= load_file(tmp_path / "model.safetensors").keys()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "toy"
    for cls in (None, "ToyForCausalLM", toy.ToyForCausalLM, "AutoModelForCausalLM"):
        loaded, weights = jm.load(tmp_path, cls=cls)
        assert type(loaded) is toy.ToyForCausalLM
        jax.tree.map(np.testing.assert_array_equal, weights, params)
    assert type(jm.load(tmp_path, cls="AutoModel")[0]) is toy.ToyModel


def test_generation_with_a_cache_extends_by_the_most_probable_token(model, params):
    tokens = TOKENS
    for _ in range(4):
        step = np.asarray(logits(model, params, tokens))[:, -1].argmax(axis=-1)
        tokens = np.concatenate([tokens, step[:, None]], axis=1)
    got = jm.generate(model, params, TOKENS, max_new_tokens=4, do_sample=False)
    np.testing.assert_array_equal(got.sequences, tokens)
    beams = jm.generate(model, params, TOKENS, max_new_tokens=4, do_sample=False, num_beams=3, cache_dtype="int8")
    assert beams.sequences.shape == (2, 10)


def test_sharded_with_a_new_axis_name(model, params):
    mesh = sharding.make_mesh({"data": 2, "model": 2}, jax.devices()[:4])
    rules = {**sharding.FSDP_TP, "rank": "model"}
    named = flatten(sharding.shardings(model, mesh, rules))["toy/h/layers/feed_forward/a/kernel"]
    assert named.spec == jax.sharding.PartitionSpec(None, "data", "model")
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    with sharding.use(mesh, rules):
        got = logits(model, placed, jax.device_put(TOKENS, sharding.batch_sharding(mesh, rules)))
    np.testing.assert_allclose(got, logits(model, params, TOKENS), atol=2e-5)


def test_an_axis_name_without_a_rule_is_named_with_its_parameter(model):
    rules = {name: axis for name, axis in sharding.FSDP.items() if name != "rank"}
    with pytest.raises(KeyError, match=r"toy/h/layers/feed_forward/./kernel: .* no entry for the axis 'rank'"):
        sharding.shardings(model, sharding.make_mesh({"data": 8}), rules)


def test_a_parameter_without_a_rule_is_named(toy, params, tmp_path):
    rules = tuple(rule for rule in toy.ToyModel.table.rules if rule.path != "h/layers/feed_forward/b/kernel")

    class Incomplete(toy.ToyForCausalLM):
        table = dataclasses.replace(toy.ToyModel.table, rules=rules)

    with pytest.raises(ValueError, match=r"h/layers/feed_forward/b/kernel"):
        jm.save(tmp_path, Incomplete(toy.ToyConfig()), params)
    assert not list(tmp_path.iterdir())


def class_named(name: str, base: type = decoder.DecoderModel, **attributes) -> type:
    return type(name, (base,), {"__module__": "elsewhere", **attributes})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda toy: int, TypeError, "register takes classes of models"),
        (lambda toy: class_named("A"), ValueError, "A.config_class is a subclass of Config"),
        (lambda toy: class_named("A", config_class=toy.ToyConfig), ValueError, "A.table is a weight table"),
        (
            lambda toy: class_named("GPT2Model", body=toy.ToyModel),
            ValueError,
            "the name GPT2Model is taken by jaxmodels",
        ),
        (lambda toy: class_named("A", body=toy.ToyModel), ValueError, "AutoModel of 'toy' is taken by support.toy_fam"),
        (
            lambda toy: class_named("A", config_class=class_named("B", toy.ToyConfig), table=Table("a", ())),
            ValueError,
            "the model_type 'toy' is taken by support.toy_family.ToyConfig",
        ),
    ],
)
def test_classes_that_cannot_be_registered(toy, make, error, message):
    with pytest.raises(error, match=message):
        jm.register(make(toy))


def test_a_notebook_s_cell_may_run_twice(toy):
    again = type("ToyForCausalLM", (toy.ToyForCausalLM,), {"__module__": toy.__name__})
    jm.register(again)
    assert MODELS["ToyForCausalLM"] is AUTO["AutoModelForCausalLM"]["toy"] is again
    jm.register(toy.ToyForCausalLM)
    assert MODELS["ToyForCausalLM"] is toy.ToyForCausalLM
