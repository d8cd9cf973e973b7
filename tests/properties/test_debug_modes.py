"""JAX's debugging modes find nothing wrong in a model, and parameters may be arrays of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import training

GENERATIVE = ["GPTNeoForCausalLM", "LlamaForCausalLM", "BartForConditionalGeneration", "T5ForConditionalGeneration"]
GENERATIVE += ["LEDForConditionalGeneration"]
FAMILIES = ["RobertaPreLayerNormForMaskedLM", *GENERATIVE]
# In less than a few seconds for each mode.
FAST = "GPT2LMHeadModel"


def families(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in names)])


def batch() -> dict:
    """With padding, and a sequence of one token."""
    ids = np.random.default_rng(0).integers(3, 60, (3, 8)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": (np.arange(8) < [[8], [6], [1]]).astype(np.int32), "labels": ids}


def value_and_gradient(model, params):
    def loss(params):
        return model.apply({"params": params}, **batch(), rngs={"dropout": jax.random.key(0)}).loss

    return jax.jit(jax.value_and_grad(loss))(params)


def generated(model, params) -> list[np.ndarray]:
    """By greedy search, beam search and sampling, of prompts that are padded on the left."""
    ids, mask = batch()["input_ids"], batch()["attention_mask"][:, ::-1]
    options = [{}, {"num_beams": 2}, {"do_sample": True, "top_p": 0.9, "key": jax.random.key(0)}]
    call = {"attention_mask": mask, "max_new_tokens": 3, "pad_token_id": 0}
    return [np.asarray(jm.generate(model, params, ids, **call, **each).sequences) for each in options]


def assert_same(actual, expected) -> None:
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


MODES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "strict dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "x64": lambda: jax.enable_x64(True),
}


@families(FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradient_are_the_same_in_a_debugging_mode(name, mode):
    model, params = tiny(name)
    expected = value_and_gradient(model, params)
    with MODES[mode]():
        assert_same(value_and_gradient(model, params), expected)


@families(GENERATIVE)
@pytest.mark.parametrize("mode", MODES)
def test_generation_gives_the_same_ids_in_a_debugging_mode(name, mode):
    model, params = tiny(name)
    expected = generated(model, params)
    with MODES[mode]():
        assert_same(generated(model, params), expected)


def test_debug_nans_finds_a_nan_in_the_parameters():
    model, params = tiny()
    params["transformer"]["ln_f"]["scale"] = params["transformer"]["ln_f"]["scale"].at[3].set(jnp.nan)
    assert jnp.isnan(value_and_gradient(model, params)[0])
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        value_and_gradient(model, params)


@families(["BartForConditionalGeneration", "LEDForConditionalGeneration"])
def test_a_training_step_leaks_no_tracers(name):
    model, params = tiny(name)
    optimizer = optax.sgd(0.1)
    with jax.checking_leaks():
        step = training.make_step(model, optimizer, microbatches=3)
        _, metrics = step(training.init_state(optimizer, params), batch(), jax.random.key(0))
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize("kind", ["memory-mapped", pytest.param("read-only", marks=pytest.mark.slow)])
def test_parameters_may_be_arrays_of_numpy(kind, tmp_path):
    """In apply, gradients and generation, with and without jit; they are not written to."""
    model, params = tiny()

    def of_numpy(path, leaf):
        leaf = np.asarray(leaf)
        if kind == "memory-mapped":
            file = tmp_path / f"{jax.tree_util.keystr(path, simple=True, separator='.')}.npy"
            np.save(file, leaf)
            return np.load(file, mmap_mode="r")
        leaf.setflags(write=False)
        return leaf

    arrays = jax.tree_util.tree_map_with_path(of_numpy, params)
    assert not any(leaf.flags.writeable for leaf in jax.tree.leaves(arrays))
    assert_same(value_and_gradient(model, arrays), value_and_gradient(model, params))
    assert_same(generated(model, arrays), generated(model, params))
    assert_same(model.apply({"params": arrays}, **batch()), model.apply({"params": params}, **batch()))
