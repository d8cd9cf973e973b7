"""BART's loss, gradients, dropout, layerdrop, first values and types against the reference.

Rows: docs/parity.md, A19, C10 to C14.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from support.bart_inputs import BATCH, LABELS, MASK, PADDED
from support.reference import agree, agree_in_training, pair
from support.scattered import assert_scatter_alike, in_many_copies
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

NAME = "BartForConditionalGeneration"
TRAINING = {"input_ids": PADDED, "attention_mask": MASK, "labels": LABELS}
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


@pytest.mark.parametrize(
    "options",
    [{}, {"scale_embedding": True, "decoder_layers": 1, "activation_function": "gelu_new"}],
    ids=["plain", "scaled uneven"],
)
@pytest.mark.parity("A19", "L12")
def test_loss_and_every_gradient_from_labels_alone(options, tmp_path):
    """The decoder reads the labels shifted right, pads for the ignored ones; the loss is not shifted."""
    agree_in_training(pair(NAME, tmp_path, **options), **TRAINING)


@pytest.mark.parity("L12")
def test_given_decoder_inputs_are_not_replaced(tmp_path):
    agree(pair(NAME, tmp_path), **BATCH, labels=LABELS)


@pytest.mark.parity("C10")
def test_rematerialised_it_is_the_same_loss_and_gradients():
    model, params = tiny(NAME)

    def step(m):
        return jax.jit(jax.value_and_grad(lambda p: m.apply({"params": p}, **TRAINING).loss))(params)

    expected, got = step(model), step(model.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)
    assert not np.asarray(got[1]["final_logits_bias"]).any(), "a buffer in the reference: it is not trained"


def states(key=None, **rates):
    """Of the decoder, by a model with these rates and no others."""
    model, params = tiny("BartModel", **{**STILL, **rates})
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, **BATCH, rngs=rngs).last_hidden_state


@pytest.fixture(scope="module")
def still():
    """Without a key no rate acts."""
    return np.asarray(
        jax.jit(lambda: states(**dict.fromkeys(STILL, 0.5), encoder_layerdrop=1.0, decoder_layerdrop=1))()
    )


@pytest.mark.parametrize("rate", STILL)
@pytest.mark.parity("A19")
def test_each_dropout_acts_with_a_key_only(rate, still):
    run = jax.jit(lambda key: states(key, **{rate: 0.5}))
    one, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - still).max() > 0.01 and np.abs(one - other).max() > 0.01


@pytest.mark.parity("L11")
def test_without_rates_a_key_changes_nothing(still):
    got = jax.jit(states)(jax.random.key(0))
    np.testing.assert_allclose(got, still, atol=1e-6)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parity("L11")
def test_layerdrop_skips_whole_layers_each_on_its_own(unroll):
    model, params = tiny("BartModel", encoder_layerdrop=0.5, decoder_layerdrop=1.0, **STILL)
    model = model.clone(unroll=unroll)

    def skipped(key):
        out = model.apply({"params": params}, **BATCH, output_hidden_states=True, rngs={"dropout": key})
        same = [(h[1:] == h[:-1]).all(axis=(1, 2, 3)) for h in (out.encoder_hidden_states, out.decoder_hidden_states)]
        return jnp.concatenate(same)

    encoder, decoder = np.split(np.asarray(jax.jit(jax.vmap(skipped))(jax.random.split(jax.random.key(0), 64))), 2, 1)
    assert decoder.all()
    combinations = {(False, False), (False, True), (True, False), (True, True)}
    assert {tuple(row.tolist()) for row in encoder} == combinations
    assert 0.3 < encoder.mean() < 0.7


@pytest.mark.slow
@pytest.mark.parity("A19")
def test_dropout_is_at_the_reference_s_places(tmp_path):
    """Many copies of one text: states scatter as much as the reference's, in the encoder and in the decoder."""
    rates = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4}
    both = pair("BartModel", tmp_path, **rates, encoder_layers=1, decoder_layers=1)
    got, expected = in_many_copies(both, {name: value[1:] for name, value in BATCH.items()})
    for name in ("encoder_last_hidden_state", "last_hidden_state"):
        assert_scatter_alike(np.asarray(got[name]), expected[name].numpy(), name)


@pytest.mark.parity("C11")
def test_fresh_parameters_have_the_reference_s_widths(tmp_path):
    options = {"vocab_size": 97, "d_model": 64, "encoder_layers": 3, "decoder_layers": 3, "init_std": 0.1}
    options |= {"encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "encoder_attention_heads": 4}
    options |= {"decoder_attention_heads": 4, "max_position_embeddings": 64}
    fresh = flatten(jm.init(jm.BartForConditionalGeneration(jm.BartConfig(**options)), jax.random.key(0)))
    torch.manual_seed(0)
    transformers.BartForConditionalGeneration(transformers.BartConfig(**options)).save_pretrained(tmp_path)
    expected = flatten(jm.load(tmp_path)[1])
    assert fresh.keys() == expected.keys()
    for path, leaf in expected.items():
        mine, leaf = np.asarray(fresh[path]), np.asarray(leaf)
        if path.endswith(("bias", "scale")):
            np.testing.assert_array_equal(mine, leaf, err_msg=path)
        else:
            np.testing.assert_allclose(mine.std(), leaf.std(), rtol=0.06, err_msg=path)
    table = np.asarray(fresh["model/shared/embedding"])
    assert not table[1].any() and table[[0, *range(2, 97)]].any(axis=1).all(), "the padding row, and no other, is zero"


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_is_close_and_logits_and_loss_are_float32(dtype, tolerance):
    model, params = tiny(NAME, scale_embedding=True)
    apply = lambda m: jax.jit(lambda p: m.apply({"params": p}, **TRAINING))(params)  # noqa: E731
    exact, half = apply(model), apply(model.clone(dtype=dtype))
    assert half.encoder_last_hidden_state.dtype == dtype
    assert half.logits.dtype == half.loss.dtype == jnp.float32
    assert 0 < np.abs(exact.logits - half.logits).max() < tolerance * np.abs(exact.logits).max()
    assert abs(exact.loss - half.loss) < tolerance
