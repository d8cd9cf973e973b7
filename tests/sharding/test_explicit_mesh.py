"""Models on meshes with explicit axes, which `jax.make_mesh` makes."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import sharding, training

FAMILIES = ["GPTNeoForCausalLM", "LlamaForCausalLM", "RobertaPreLayerNormForMaskedLM", "BartForConditionalGeneration"]
FAMILIES += ["T5ForConditionalGeneration", "LEDForConditionalGeneration"]


def explicit_mesh(**axes) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Explicit,) * len(axes))


def batch() -> dict:
    ids = np.random.default_rng(0).integers(3, 60, (8, 6)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids}


def step_of(model):
    """A training step with plain JAX and Optax: (loss, gradients, new parameters)."""
    optimizer = optax.sgd(0.1)

    def step(params, inputs):
        loss, grads = jax.value_and_grad(lambda params: model.apply({"params": params}, **inputs).loss)(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return loss, grads, optax.apply_updates(params, updates)

    return jax.jit(step)


def assert_close(actual, expected) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", *(pytest.param(x, marks=pytest.mark.slow) for x in FAMILIES)])
@pytest.mark.parametrize(
    ("axes", "rules"),
    [({"data": 8}, sharding.DP), ({"data": 4, "model": 2}, sharding.FSDP_TP)],
    ids=["data parallel", "FSDP and TP"],
)
def test_a_training_step_is_that_of_one_device(name, axes, rules):
    # The heads of this model are not divisible.
    model, params = tiny(name, **({"num_key_value_heads": 4} if name.startswith("Llama") else {}))
    expected = step_of(model)(params, batch())
    mesh = explicit_mesh(**axes)
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    with jax.set_mesh(mesh):
        loss, grads, new = step_of(model)(placed, jax.device_put(batch(), sharding.batch_sharding(mesh, rules)))
    assert_close((loss, grads, new), expected)
    for old, changed in zip(jax.tree.leaves(placed), jax.tree.leaves(new), strict=True):
        assert changed.sharding.is_equivalent_to(old.sharding, old.ndim)


def test_outputs_are_split_like_the_inputs():
    """Under jit and without; the batch is not gathered on the way."""
    model, params = tiny()
    mesh = explicit_mesh(data=8)
    inputs = batch()
    del inputs["attention_mask"]  # which is checked on the host, where it is concrete
    expected = model.apply({"params": params}, **inputs, output_hidden_states=True)
    with jax.set_mesh(mesh):
        placed = jax.device_put(inputs, NamedSharding(mesh, P("data")))
        replicated = jax.device_put(params, NamedSharding(mesh, P()))

        def forward(params, inputs):
            return model.apply({"params": params}, **inputs, output_hidden_states=True)

        for function in (forward, jax.jit(forward)):
            out = function(replicated, placed)
            assert_close(out, expected)
            assert out.logits.sharding.spec == P("data", None, None) and out.loss.sharding.spec == P()
            assert out.hidden_states.sharding.spec == P(None, "data", None, None)
        program = jax.jit(forward).lower(replicated, placed).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_make_step_takes_an_explicit_mesh(microbatches):
    model, params = tiny()
    optimizer, key = optax.sgd(0.1), jax.random.key(0)
    expected = training.make_step(model, optimizer, microbatches=microbatches)(
        training.TrainState(0, jax.tree.map(jax.numpy.copy, params), optimizer.init(params)), batch(), key
    )
    mesh = explicit_mesh(data=4, model=2)
    step = training.make_step(model, optimizer, mesh=mesh, rules=sharding.FSDP_TP, microbatches=microbatches)
    placed = jax.device_put(params, sharding.shardings(model, mesh, sharding.FSDP_TP))
    state, metrics = step(training.TrainState(jax.numpy.int32(0), placed, optimizer.init(placed)), batch(), key)
    assert_close((state.params, metrics), (expected[0].params, expected[1]))


@pytest.mark.slow
def test_generation_gives_the_ids_of_one_device():
    model, params = tiny()
    ids = batch()["input_ids"]
    expected = jm.generate(model, params, ids, max_new_tokens=4, pad_token_id=0).sequences
    mesh = explicit_mesh(data=8)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, P()))
        actual = jm.generate(model, placed, ids, max_new_tokens=4, pad_token_id=0).sequences
    np.testing.assert_array_equal(actual, expected)
