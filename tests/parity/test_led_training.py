"""LED's losses and gradients against the reference, layerdrop, dropout and float16 (docs/parity.md, L7, L10 to L13)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.bart_inputs import LABELS
from support.led_pairs import real_globals
from support.reference import agree_in_training, pair
from support.scattered import assert_same_means, in_many_copies
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.architectures.bart.model import bart_layer
from jaxmodels.architectures.base import RunOptions
from jaxmodels.layers.inputs import AttentionInputs, LayerInputs
from jaxmodels.parameters import flatten

NAME = "LEDForConditionalGeneration"
GLOBALS = np.array([[1, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]])
VALID = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
TEXT = {"input_ids": np.where(VALID, ids((2, 9), low=3), 1), "attention_mask": VALID, "global_attention_mask": GLOBALS}
TRAINING = {**TEXT, "labels": LABELS}
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def with_slots(both, slots=2):
    """The same pair, for masks that are traced."""
    return dataclasses.replace(both, model=both.model.clone(max_global_tokens=slots))


@pytest.mark.parity("L7", "L12")
def test_loss_and_every_gradient(tmp_path):
    """Through the global projections too; the decoder reads the labels shifted right, and the loss is not shifted."""
    agree_in_training(with_slots(pair(NAME, tmp_path, attention_window=[4, 8], decoder_layers=1)), **TRAINING)


@pytest.mark.filterwarnings("ignore:.*LEDForSequenceClassification")
@pytest.mark.parity("L13", "C14")
def test_classification_loss_and_every_gradient(tmp_path):
    both = with_slots(pair("LEDForSequenceClassification", tmp_path, num_labels=3, encoder_layers=1, decoder_layers=1))
    rows = TEXT["input_ids"].copy()
    rows[[0, 1], [6, 8]] = 2
    agree_in_training(both, **{**TEXT, "input_ids": rows}, labels=np.array([2, 0]))


@pytest.mark.parity("L12", "C15")
def test_question_answering_loss_and_every_gradient(tmp_path):
    """A position beyond the decoder's text is ignored; positions may have a second axis."""
    both = with_slots(pair("LEDForQuestionAnswering", tmp_path, encoder_layers=1, decoder_layers=1))
    positions = {"start_positions": np.array([1, 30]), "end_positions": np.array([[3], [2]])}
    agree_in_training(both, **TEXT, **positions)


def gradients_of(model, params, **options):
    loss = lambda p, inputs: model.apply({"params": p}, **inputs, **options).loss  # noqa: E731
    return jax.jit(jax.grad(loss))(params, TRAINING)


@pytest.fixture(scope="module")
def plain():
    model, params = tiny(NAME, decoder_layers=1, choices={"max_global_tokens": 2})
    return model, params, gradients_of(model, params)


@pytest.mark.parity("L7")
def test_every_layer_s_global_projections_are_trained(plain):
    layers = plain[2]["led"]["encoder"]["stack"]["layers"]["attention"]
    for part in "qkv":
        assert np.asarray(layers[f"global_{part}"]["kernel"]).any(axis=(1, 2, 3)).all(), part


def same(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), got, expected)


@pytest.mark.slow
@pytest.mark.parity("C10")
def test_rematerialised_it_is_the_same_gradients(plain):
    model, params, expected = plain
    same(gradients_of(model.clone(remat=True), params), expected)


@pytest.mark.parity("L7")
def test_both_routes_of_the_global_rows_give_the_same_gradients(plain):
    """With few slots the projections of all tokens are absorbed; from d_model / heads = 8 on they are made."""
    model, params, expected = plain
    same(gradients_of(model, params, max_global_tokens=8), expected)


@pytest.mark.parity("L7")
def test_both_routes_of_the_global_rows_give_the_same_states_and_attentions(plain):
    model, params, _ = plain

    @jax.jit
    def encoded(params, inputs):
        options = {"method": "encode", "output_attentions": True, "output_hidden_states": True}
        return [model.apply({"params": params}, **inputs, **options, max_global_tokens=n) for n in (7, 8)]

    absorbed, projected = encoded(params, TEXT)
    for name in ("last_hidden_state", "hidden_states", "global_attentions"):
        a, b = absorbed[name], projected[name]
        np.testing.assert_allclose(a, b[..., :7] if name == "global_attentions" else b, atol=1e-5, err_msg=name)
    there = real_globals(GLOBALS, VALID).sum()
    assert np.asarray(absorbed.global_attentions).any(axis=3).sum() == 2 * 4 * there  # layers x heads


def test_both_routes_of_the_global_rows_drop_the_same():
    """What is left of a row's probabilities does not add up to one, and the value's bias counts by that."""
    model, params = tiny("LEDModel", **{**STILL, "attention_dropout": 0.5}, encoder_layers=1)

    @jax.jit
    def encoded(key):
        options = {"method": "encode", "rngs": {"dropout": key}}
        both = (model.apply({"params": params}, **TEXT, **options, max_global_tokens=n) for n in (7, 8))
        return [out.last_hidden_state for out in both]

    np.testing.assert_allclose(*encoded(jax.random.key(0)), atol=1e-5)


def states(key=None, **rates):
    """Of the encoder, by a model with these rates and no others."""
    model, params = tiny("LEDModel", **{**STILL, **rates})
    rngs = None if key is None else {"dropout": key}
    options = {"method": "encode", "max_global_tokens": 2, "rngs": rngs, "output_hidden_states": True}
    return model.apply({"params": params}, **TEXT, **options)


@pytest.fixture(scope="module")
def still():
    """Without a key no rate acts."""
    return jax.jit(lambda: states(**dict.fromkeys(STILL, 0.5), encoder_layerdrop=1.0))()


@pytest.mark.parametrize("rate", STILL)
def test_each_dropout_acts_with_a_key_only_in_local_and_global_rows(rate, still):
    run = jax.jit(lambda key: states(key, **{rate: 0.5}).last_hidden_state)
    still = np.asarray(still.last_hidden_state)
    one, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    for rows in (GLOBALS == 1, (GLOBALS == 0) & (VALID == 1)):
        assert (np.abs(one - still)[rows].max(axis=-1) > 0.01).all()
        assert (np.abs(one - other)[rows].max(axis=-1) > 0.01).all()


@pytest.mark.parametrize("windows", [4, [4, 8]], ids=["one window", "two windows"])
@pytest.mark.parity("L11")
def test_layerdrop_leaves_the_embeddings_or_changes_nothing(windows, still):
    run = jax.jit(lambda key: [states(key, encoder_layerdrop=rate, attention_window=windows) for rate in (1.0, 0.0)])
    dropped, kept = run(jax.random.key(0))
    np.testing.assert_array_equal(dropped.last_hidden_state, dropped.hidden_states[0])
    np.testing.assert_allclose(dropped.hidden_states[0], still.hidden_states[0], atol=1e-6)
    if windows == 4:
        np.testing.assert_allclose(kept.last_hidden_state, still.last_hidden_state, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LEDForSequenceClassification")
def test_dropout_is_at_the_reference_s_places(tmp_path):
    """Many copies of one text: states and logits scatter as much as the reference's, in global rows and in others."""
    rates = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4, "classifier_dropout": 0.3}
    both = pair("LEDForSequenceClassification", tmp_path, **rates, encoder_layers=1, decoder_layers=1)
    text = {name: value[1:].copy() for name, value in TEXT.items()}
    text["input_ids"][:, -1] = 2
    got, expected = in_many_copies(both, text)
    for name in ("encoder_last_hidden_state", "logits"):
        mine, reference = np.asarray(got[name]), expected[name].numpy()
        ratio = mine.std(axis=0).mean(axis=-1) / reference.std(axis=0).mean(axis=-1)
        assert np.abs(ratio - 1).max() < 0.03, f"{name}: {ratio}"
        assert_same_means(mine, reference, name)


@pytest.fixture(scope="module")
def layer():
    """A layer of the encoder, compiled: (dtype, clamp, factor of its last norm, states) -> states."""
    model, params = tiny("BartModel")
    params = jax.tree.map(lambda a: a[0], params["encoder"]["stack"]["layers"])

    @partial(jax.jit, static_argnums=(0, 1))
    def run(dtype, clamp, factor, x):
        module = bart_layer(model.config, "encoder", RunOptions(dtype=jnp.dtype(dtype)))
        assert module.clamp
        scaled = {**params, "feed_forward_norm": {**params["feed_forward_norm"], "scale": jnp.full(32, factor)}}
        inputs = LayerInputs(AttentionInputs())
        return module.clone(clamp=clamp).apply({"params": scaled}, x.astype(dtype), inputs)[0]

    return run


@pytest.mark.parity("L10")
def test_float16_states_that_overflow_are_clamped(layer):
    y = layer("float16", True, 1e5, numbers((2, 3, 32)))
    assert y.dtype == jnp.float16 and np.isfinite(y).all()
    assert np.abs(y).max() == np.float16(65504 - 1000)
    assert not np.isfinite(layer("float16", False, 1e5, numbers((2, 3, 32)))).all()


@pytest.mark.parity("L10")
def test_states_that_fit_and_other_types_are_left_alone(layer):
    x = numbers((2, 3, 32))
    wide = np.abs(layer("float32", True, 1e5, x)).max()
    assert wide > 65504
    y = layer("float16", True, 1e5 * 65200 / wide, x)
    assert 64504 < np.abs(y).max() <= 65504, "nothing overflowed, so nothing is cut"


@pytest.fixture(scope="module")
def run(plain):
    model, params, _ = plain

    def apply(dtype="float32", slots=2):
        model_ = model.clone(dtype=jnp.dtype(dtype), max_global_tokens=slots)
        call = lambda p, inputs: model_.apply({"params": p}, **inputs, output_attentions=True)  # noqa: E731
        return jax.jit(call)(params, TRAINING)

    return apply


@pytest.fixture(scope="module")
def exact(run):
    return run()


@pytest.mark.parametrize(("dtype", "tolerance", "slots"), [("bfloat16", 0.1, 2), ("float16", 0.02, 8)], ids=str)
def test_half_precision_is_close_and_logits_and_loss_are_float32(dtype, tolerance, slots, run, exact):
    """With few slots for global tokens (absorbed projections) and with many."""
    half = run(dtype, slots)
    assert half.encoder_last_hidden_state.dtype == half.encoder_attentions.dtype == dtype
    assert half.logits.dtype == half.loss.dtype == jnp.float32
    assert 0 < np.abs(exact.logits - half.logits).max() < tolerance * np.abs(exact.logits).max()
    assert abs(exact.loss - half.loss) < tolerance
    wide = np.asarray(half.encoder_global_attentions[..., :2], np.float32)
    np.testing.assert_allclose(wide, exact.encoder_global_attentions, atol=tolerance)


@pytest.mark.slow
def test_bfloat16_gradients_are_close(plain):
    model, params, exact = plain
    half = flatten(gradients_of(model.clone(dtype=jnp.bfloat16), params))
    for path, leaf in flatten(exact).items():
        scale = max(0.05, float(np.abs(leaf).max()))
        assert np.abs(np.asarray(half[path]) - leaf).max() < 0.15 * scale, path


@pytest.mark.parity("C11")
def test_fresh_parameters():
    model, _ = tiny("LEDForQuestionAnswering", init_std=0.3, encoder_layers=1, decoder_layers=1)
    fresh = flatten(jm.init(model, jax.random.key(0)))
    for path, leaf in fresh.items():
        if path.endswith("bias"):
            assert not np.asarray(leaf).any(), path
        elif path.endswith("scale"):
            assert (np.asarray(leaf) == 1).all(), path
        else:
            assert 0.2 < np.asarray(leaf).std() < 0.4, path
    assert not np.asarray(fresh["led/shared/embedding"])[1].any()
