"""T5's loss, gradients, dropout, initialisation and types against the reference (docs/parity.md, A20, C8 to C11)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from support.arrays import close, ids
from support.reference import agree_in_training, reference_output
from support.scattered import assert_scatter_alike, in_many_copies
from support.t5_pairs import BATCH, DECODED, DECODED_MASK, LABELS, MASK, PADDED, t5_pair
from support.tiny import sizes, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten

NAME = "T5ForConditionalGeneration"
TRAINING = {"input_ids": PADDED, "attention_mask": MASK, "labels": LABELS}


@pytest.mark.parametrize(
    "options",
    [{}, {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 1}],
    ids=["tied", "untied gated"],
)
@pytest.mark.parity("A20")
def test_loss_and_every_gradient_from_labels_alone(options, tmp_path):
    agree_in_training(t5_pair(NAME, tmp_path, **options), **TRAINING)


def loss_and_gradients(model, params, inputs):
    loss = lambda p: model.apply({"params": p}, **inputs).loss  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parity("C10")
def test_rematerialised_and_unrolled_it_is_the_same_loss_and_gradients():
    model, params = tiny(NAME, feed_forward_proj="gated-silu")
    expected, got = (loss_and_gradients(m, params, TRAINING) for m in (model, model.clone(remat=True, unroll=True)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


@pytest.mark.slow
def test_outputs_and_gradients_on_eight_devices_are_those_of_one():
    model, params = tiny(NAME, tie_word_embeddings=False)
    inputs = {name: np.tile(value, (4, 1)) for name, value in TRAINING.items()}
    loss, expected = loss_and_gradients(model, params, inputs)
    mesh, rules = sharding.make_mesh({"data": 2, "model": 4}), sharding.FSDP_TP
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    data = jax.device_put(inputs, sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        got_loss, got = loss_and_gradients(model, placed, data)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    for path, leaf in flatten(expected).items():
        np.testing.assert_allclose(flatten(got)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("form", [pytest.param("relu", marks=pytest.mark.slow), "gated-gelu"])
@pytest.mark.parity("A20")
def test_dropout_is_at_the_reference_s_places(form, tmp_path):
    """Many copies of one text: states scatter as much as the reference's, in the encoder and in the decoder."""
    both = t5_pair("T5Model", tmp_path, dropout_rate=0.3, feed_forward_proj=form, num_layers=1)
    got, expected = in_many_copies(both, {name: value[1:] for name, value in BATCH.items()})
    for name in ("encoder_last_hidden_state", "last_hidden_state"):
        mine, reference = np.asarray(got[name]), expected[name].numpy()
        assert abs((mine == 0).mean() - (reference == 0).mean()) < 0.003, "the last dropout, and those of the residuals"
        assert_scatter_alike(mine, reference, name)


WIDE = {"vocab_size": 97, "d_model": 64, "d_kv": 24, "d_ff": 80, "num_layers": 6, "num_heads": 4}


@pytest.mark.parametrize("form", ["relu", "gated-gelu"])
@pytest.mark.parity("C11")
def test_fresh_parameters_have_the_reference_s_widths(form, tmp_path):
    options = {**WIDE, "initializer_factor": 0.5, "tie_word_embeddings": False, "feed_forward_proj": form}
    fresh = flatten(jm.init(jm.T5ForConditionalGeneration(jm.T5Config(**options)), jax.random.key(0)))
    torch.manual_seed(0)
    reference = transformers.T5ForConditionalGeneration(transformers.T5Config(**options))
    reference.save_pretrained(tmp_path)
    expected = flatten(jm.load(tmp_path)[1])
    assert fresh.keys() == expected.keys()
    for path, leaf in expected.items():
        mine, leaf = np.asarray(fresh[path]), np.asarray(leaf)
        if path.endswith("scale"):
            np.testing.assert_array_equal(mine, leaf)
            continue
        # Queries, keys and values, or gate and values, stand side by side: each has its own width.
        axes = tuple(a for a in range(leaf.ndim) if not (path.endswith(("qkv/kernel", "kv/kernel")) and a == 2))
        tolerance = 0.06 if leaf.size > 1000 else 0.3
        np.testing.assert_allclose(mine.std(axis=axes), leaf.std(axis=axes), rtol=tolerance, err_msg=path)


@pytest.mark.parametrize(("size", "tied"), [(60, False), (80, True)], ids=["smaller untied", "larger tied"])
@pytest.mark.parity("C8")
def test_another_vocabulary_size_keeps_the_rows(size, tied, tmp_path):
    both = t5_pair(NAME, tmp_path, tie_word_embeddings=tied)
    model, params = jm.resize_token_embeddings(both.model, both.params, size, key=jax.random.key(0))
    assert model.config.vocab_size == size and params["shared"]["embedding"].shape == (size, 32)
    rows = {"input_ids": ids((2, 5), high=60), "decoder_input_ids": ids((2, 4), seed=1, high=60)}
    got = jax.jit(lambda p: model.apply({"params": p}, **rows).logits)(params)
    assert got.shape == (2, 4, size)
    kept = min(size, 67)
    close(got[..., :kept], reference_output(both, **rows).logits[..., :kept])


def test_head_has_the_base_model_s_parameters_at_the_same_paths():
    """Files of both classes use the same names, and so do the trees: either tree serves the other class."""
    model, params = tiny(NAME)
    base = jm.T5Model(model.config)
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    assert shapes == {path: leaf.shape for path, leaf in flatten(tiny("T5Model")[1]).items()}
    whole = jax.jit(lambda p: (base.apply({"params": p}, **BATCH), model.apply({"params": p}, **BATCH)))(params)
    states, logits = whole[0].last_hidden_state, whole[1].logits
    np.testing.assert_allclose(states @ params["shared"]["embedding"].T * 32**-0.5, logits, atol=1e-5)


def test_bfloat16_is_close_and_logits_and_loss_are_float32():
    model, params = tiny(NAME)
    apply = lambda m: jax.jit(lambda p: m.apply({"params": p}, **TRAINING))(params)  # noqa: E731
    exact, half = apply(model), apply(model.clone(dtype="bfloat16"))
    assert half.encoder_last_hidden_state.dtype == "bfloat16"
    assert half.logits.dtype == half.loss.dtype == jnp.float32
    assert 0 < np.abs(exact.logits - half.logits).max() < 0.1 * np.abs(exact.logits).max()
    assert abs(exact.loss - half.loss) < 0.1


@pytest.mark.parity("A20")
def test_states_beyond_float16_are_kept(tmp_path):
    """Trained T5s have states beyond 65504. The reference keeps `wo` in float32, and with it the residual stream."""
    both = t5_pair("T5Model", tmp_path)
    params = both.params
    for stack in ("encoder", "decoder"):
        params[stack]["block"]["layers"]["feed_forward"]["down"]["kernel"] *= 1e6
    apply = lambda m: jax.jit(lambda p: m.apply({"params": p}, **BATCH, output_hidden_states=True))(params)  # noqa: E731
    exact, half = apply(both.model), apply(both.model.clone(dtype="float16"))
    assert np.abs(exact.encoder_hidden_states).max() > 1e5
    for name in ("encoder_last_hidden_state", "last_hidden_state"):
        assert half[name].dtype == "float16"
        difference = np.abs(exact[name] - half[name].astype("float32"))[DECODED_MASK.astype(bool)[:, :4].all(axis=1)]
        assert difference.max() < 0.03 * np.abs(exact[name]).max(), name


def test_sizes_are_those_of_the_reference():
    """Heads of width d_kv, whatever d_model is; a table of relative positions in each stack's first layer only."""
    reference = transformers.T5Model(transformers.T5Config(**sizes("T5Model")))
    tables = [name for name in reference.state_dict() if "relative" in name]
    assert len(tables) == 2
    shapes = {path: leaf.shape for path, leaf in flatten(tiny("T5Model")[1]).items()}
    assert shapes["encoder/block/layers/attention/qkv/kernel"] == (2, 32, 3, 4, 6)
    assert shapes["decoder/relative_attention_bias/embedding"] == (8, 4) == reference.state_dict()[tables[1]].shape
    assert DECODED.shape == DECODED_MASK.shape
