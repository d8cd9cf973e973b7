"""Which tokens LED's states depend on: shown by the gradient, not by examples (docs/parity.md, L5, L7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.tiny import tiny

T, WINDOW = 12, 4
DISTANCE = np.abs(np.arange(T)[:, None] - np.arange(T))


def depends(function, length) -> np.ndarray:
    """bool: does the state at t (row) of `function(embeddings [1,length,32])` depend on the embedding at s (column)?"""

    def project(embeds):
        return function(embeds)[0] @ numbers((32,), seed=9)  # any projection: a plain sum is constant after the norm

    jacobian = jax.jit(jax.jacobian(project))(jnp.asarray(numbers((1, length, 32))))
    return np.abs(np.asarray(jacobian)[:, 0]).max(axis=-1) > 0


def encoder_depends(layers, mask=None, globals=(), attention="auto"):
    model, params = tiny("LEDModel", encoder_layers=layers, attention_window=WINDOW, choices={"attention": attention})
    flags = np.isin(np.arange(T), globals).astype(int)[None]
    options = {"attention_mask": mask, "global_attention_mask": flags, "method": "encode"}
    return depends(lambda x: model.apply({"params": params}, inputs_embeds=x, **options).last_hidden_state, T)


@pytest.mark.parametrize(("layers", "attention"), [(1, "xla_blocked"), (2, "xla")])
@pytest.mark.parity("L5")
def test_local_tokens_see_the_stacked_windows_and_no_more(layers, attention):
    reach = layers * WINDOW // 2
    np.testing.assert_array_equal(encoder_depends(layers, attention=attention), reach >= DISTANCE)


@pytest.mark.parity("L7")
def test_through_one_layer_a_global_token_sees_all_and_is_seen_by_all():
    expected = DISTANCE <= WINDOW // 2
    expected[[3, 10]], expected[:, [3, 10]] = True, True
    np.testing.assert_array_equal(encoder_depends(1, globals=(3, 10)), expected)


@pytest.mark.parity("L7")
def test_through_two_layers_every_token_reaches_every_other_over_a_global_one():
    assert encoder_depends(2, globals=(6,)).all()


@pytest.mark.parity("L5", "L7")
def test_padding_is_seen_by_itself_only_also_where_it_is_marked_global():
    mask = np.ones((1, T), int)
    mask[0, [2, 11]] = 0
    real = mask[0].astype(bool)
    expected = real[None] & (DISTANCE <= WINDOW // 2)
    expected[6], expected[:, 6] = real, True
    expected[~real] = False  # their own attention is zero
    expected |= np.eye(T, dtype=bool)  # the residual path stays
    np.testing.assert_array_equal(encoder_depends(1, mask, globals=(2, 6)), expected)


def test_the_decoder_is_causal_and_sees_every_token_of_the_source_that_is_not_masked():
    model, params = tiny("LEDModel", encoder_layers=1, decoder_layers=1)
    mask = np.array([[1, 0, 1, 1]])

    def decode(words, states):
        options = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "method": "decode"}
        return model.apply({"params": params}, decoder_inputs_embeds=words, **options).last_hidden_state

    words, states = numbers((1, 5, 32)), numbers((1, 4, 32), seed=1)
    np.testing.assert_array_equal(depends(lambda x: decode(x, states), 5), np.tril(np.ones((5, 5), bool)))
    np.testing.assert_array_equal(depends(lambda x: decode(words, x), 4), np.broadcast_to(mask == 1, (5, 4)))


@pytest.mark.parametrize("attention", ["xla", "xla_blocked"])
def test_padding_and_the_other_rows_change_nothing(attention):
    """However much padding there is, whatever stands in it, and however many global tokens the other rows have."""
    model, params = tiny("LEDModel", choices={"attention": attention, "max_global_tokens": 3})
    encode = jax.jit(
        lambda *inputs: model.apply({"params": params}, **dict(zip(NAMES, inputs, strict=True)), **ENCODE)[0]
    )
    words, flags, ones = ids((1, 6), low=3), np.array([[1, 0, 0, 0, 1, 0]]), np.ones((1, 6), int)
    wide, mask, globals = ids((2, 11), seed=2, low=3), np.ones((2, 11), int), np.zeros((2, 11), int)
    wide[0, :6], mask[0, 6:], globals[0, :6], globals[1, [0, 5, 9]] = words, 0, flags, 1
    states = encode(wide, mask, globals)
    np.testing.assert_allclose(states[:1, :6], encode(words, ones, flags), atol=1e-5)
    again = encode(np.where(mask == 1, wide, 1), mask, globals)
    np.testing.assert_array_equal(again[mask == 1], states[mask == 1])


NAMES = ("input_ids", "attention_mask", "global_attention_mask")
ENCODE = {"method": "encode", "return_dict": False}
