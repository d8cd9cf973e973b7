"""Dropout: active if and only if the caller gives a key, at the configured places and rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.arrays import ids
from support.tiny import TINY, tiny

RATES = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def outputs(model, params, key=None, **inputs):
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, **{"input_ids": ids((2, 6)), **inputs}, rngs=rngs)


def run(model, params):
    """A compiled forward pass that takes a dropout key or None."""
    return jax.jit(lambda key=None: outputs(model, params, key))


@pytest.mark.parametrize("place", [*RATES, None])
def test_dropout_needs_a_key_and_a_rate(place):
    rates = {**RATES, **({place: 0.5} if place else {})}
    apply = run(*tiny("GPT2Model", **rates))
    still, first, again, other = (
        np.asarray(apply(key).last_hidden_state)
        for key in (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(first, again)
    if place is None:
        np.testing.assert_allclose(first, still, atol=1e-6)
    else:
        assert np.abs(first - still).max() > 0.05 and np.abs(first - other).max() > 0.05


def test_layers_drop_different_entries():
    """One key serves the whole stack; each layer must draw its own mask."""
    model, params = tiny("GPT2Model", **{**RATES, "attn_pdrop": 0.5})
    apply = jax.jit(lambda key: outputs(model, params, key, output_attentions=True).attentions)
    dropped = np.asarray(apply(jax.random.key(0)) == 0.0)[:, :, :, np.tril_indices(6)[0], np.tril_indices(6)[1]]
    assert (dropped[0] != dropped[1]).any()
    assert 0.4 < dropped.mean() < 0.6


def test_attention_dropout_keeps_the_mean():
    model, params = tiny("GPT2Model", **{**RATES, "attn_pdrop": 0.5}, n_layer=1)
    inputs = {"input_ids": jnp.tile(ids((1, 6)), (400, 1)), "output_attentions": True}
    apply = jax.jit(lambda key=None: outputs(model, params, key, **inputs).attentions[0])
    still, noisy = np.asarray(apply())[0], np.asarray(apply(jax.random.key(0)))
    np.testing.assert_allclose(noisy.mean(axis=0), still, atol=0.12)
    survivors = noisy != 0
    np.testing.assert_allclose(noisy[survivors], (2 * np.broadcast_to(still, noisy.shape))[survivors], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        ({}, 0.1),
        ({"hidden_dropout": 0.4}, 0.4),
        ({"hidden_dropout": 0.4, "classifier_dropout": 0.7}, 0.7),
        ({"classifier_dropout": 0.0}, 0.0),
    ],
    ids=["default", "hidden", "classifier-first", "zero"],
)
@pytest.mark.parity("G16")
def test_the_token_classifier_s_dropout_has_a_rate_of_its_own(config, rate):
    reference = transformers.GPT2ForTokenClassification(transformers.GPT2Config(**TINY, **config))
    assert reference.dropout.p == rate
    # With one-hot weights the classifier shows single entries of the dropped states.
    model, params = tiny("GPT2ForTokenClassification", **RATES, **config, num_labels=32)
    params["classifier"] = {"kernel": jnp.eye(32), "bias": jnp.zeros(32)}
    batch = {"input_ids": ids((64, 16))}
    apply = jax.jit(lambda key=None: outputs(model, params, key, **batch).logits)
    still, noisy = np.asarray(apply()), np.asarray(apply(jax.random.key(0)))
    assert abs((noisy == 0).mean() - rate) < 0.01
    survivors = noisy != 0
    np.testing.assert_allclose(noisy[survivors], still[survivors] / (1 - rate), rtol=1e-5)


@pytest.mark.parametrize("name", ["summary_first_dropout", "summary_last_dropout"])
@pytest.mark.parity("G14")
def test_dropout_of_the_summary(name):
    rates = {**RATES, "summary_first_dropout": 0.0, "summary_last_dropout": 0.0, name: 0.5}
    model, params = tiny("GPT2DoubleHeadsModel", **rates, summary_use_proj=False)
    apply = jax.jit(lambda key=None: outputs(model, params, key).mc_logits)
    noisy = np.asarray(apply(jax.random.key(0)))
    assert not (np.asarray(apply()) == 0).any()
    assert 0.25 < (noisy == 0).mean() < 0.75


def test_scan_and_loop_draw_the_same_dropout():
    model, params = tiny("GPT2Model", attn_pdrop=0.3)
    scanned, looped = (run(choice, params)(jax.random.key(0)) for choice in (model, model.clone(unroll=True)))
    np.testing.assert_allclose(scanned.last_hidden_state, looped.last_hidden_state, atol=1e-5)


def test_rematerialised_backward_pass_draws_the_dropout_of_the_forward_pass():
    model, params = tiny(resid_pdrop=0.3)

    def gradients(remat):
        chosen = model.clone(remat=remat)
        loss = lambda p: chosen.apply({"params": p}, ids((2, 6)), labels=ids((2, 6)), rngs=key).loss  # noqa: E731
        key = {"dropout": jax.random.key(0)}
        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients(False), gradients(True))
