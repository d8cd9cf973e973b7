"""`max_global_tokens` is static, the places and the number of global tokens are not: one program serves all masks."""

import jax
import numpy as np
import pytest
from support.arrays import flags, ids
from support.tiny import tiny

from jaxmodels.architectures.led.visibility import visibility

T = 9
WORDS, DECODED = ids((3, T), low=3), ids((3, 3), seed=1, low=3)


@pytest.fixture(scope="module")
def led():
    return tiny("LEDModel", encoder_layers=1, decoder_layers=1)


def encode(led, mask, **options):
    """The encoder's states."""
    model, params = led
    options |= {"global_attention_mask": mask, "method": "encode"}
    return model.apply({"params": params}, WORDS, **options).last_hidden_state


@pytest.fixture(scope="module")
def traced(led):
    """A compiled call with room for two global tokens, and how often it was traced."""
    traces = []

    @jax.jit
    def run(mask):
        traces.append(mask)
        options = {"decoder_input_ids": DECODED, "max_global_tokens": 2}
        return led[0].apply({"params": led[1]}, WORDS, global_attention_mask=mask, **options)

    return run, traces


def test_another_number_and_other_places_compile_nothing(traced):
    run, traces = traced
    masks = [
        flags(T, (), (), ()),
        flags(T, (0,), (0,), (0,)),
        flags(T, (3, 8), (), (1,)),
        flags(T, (1, 2), (7, 8), (0, 5)),
    ]
    outs = [run(mask) for mask in masks]
    assert len(traces) == 1
    states = [np.asarray(out.encoder_last_hidden_state) for out in outs]
    assert all(np.isfinite(s).all() for s in states)
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(states) for b in states[:i]), "each mask matters"


def test_too_many_are_a_value_error_where_the_mask_is_concrete(led):
    mask = flags(T, (0,), (1, 2, 3), ())
    with pytest.raises(ValueError, match="an example has 3 global tokens, and max_global_tokens=2; raise it"):
        encode(led, mask, max_global_tokens=2)
    limited = led[0].clone(max_global_tokens=1), led[1]
    with pytest.raises(ValueError, match="max_global_tokens=1"):
        encode(limited, mask)
    with pytest.raises(ValueError, match="max_global_tokens=0"):
        encode(led, mask, max_global_tokens=0)


def test_too_many_are_nan_in_that_example_only_where_the_mask_is_traced(traced):
    run, _ = traced
    bad, good = run(flags(T, (0,), (1, 2, 3), (4, 5))), run(flags(T, (0,), (1, 2), (4, 5)))
    for name in ("encoder_last_hidden_state", "last_hidden_state"):
        assert np.isnan(bad[name][1]).all(), name
        np.testing.assert_array_equal(np.asarray(bad[name])[[0, 2]], np.asarray(good[name])[[0, 2]])
        assert np.isfinite(good[name]).all()


def test_no_room_at_all_is_enough_for_no_global_tokens(led):
    run = jax.jit(lambda mask: encode(led, mask, max_global_tokens=0))
    states = run(flags(T, (), (), (4,)))
    assert np.isfinite(states[:2]).all() and np.isnan(states[2]).all()


def test_global_tokens_on_padding_need_no_room(led):
    mask = np.ones((3, T), int)
    mask[1, 3:] = 0
    run = jax.jit(lambda globals, mask: encode(led, globals, attention_mask=mask, max_global_tokens=1))
    assert np.isfinite(run(flags(T, (0,), (2, 4, 8), ()), mask)).all()
    places = visibility(mask, flags(T, (0,), (2, 4, 8), ()), 3, T, 1).at
    np.testing.assert_array_equal(places, [[0], [2], [T]])


def test_the_call_s_number_wins_over_the_model_s_and_both_mean_the_same(led):
    mask = flags(T, (0,), (1, 2, 3), ())
    limited = led[0].clone(max_global_tokens=3), led[1]
    by_call, by_model, by_both = (
        jax.jit(lambda mask, m=m, o=o: encode(m, mask, **o))(mask)
        for m, o in ((led, {"max_global_tokens": 3}), (limited, {}), (limited, {"max_global_tokens": 2}))
    )
    np.testing.assert_array_equal(by_call, by_model)
    assert np.isnan(by_both[1]).all()


def test_room_for_more_than_the_text_has_tokens(led):
    mask = flags(T, (0,), range(T), ())
    whole, wide = (jax.jit(lambda mask, n=n: encode(led, mask, max_global_tokens=n))(mask) for n in (T, 50))
    np.testing.assert_allclose(whole, wide, atol=1e-5)


@pytest.mark.parametrize("also", [{}, {"attention_mask": np.ones((3, T), int)}], ids=["alone", "with a mask"])
def test_a_traced_mask_needs_the_number(led, also):
    with pytest.raises(ValueError, match="under jit the number of global tokens has to be known"):
        jax.jit(lambda mask: encode(led, mask, **also))(flags(T, (0,), (), ()))


@pytest.mark.parametrize("number", [-1, 2.0, True], ids=str)
def test_a_number_that_is_none_is_refused(led, number):
    with pytest.raises((TypeError, ValueError), match="max_global_tokens is a number"):
        encode(led, flags(T, (0,), (), ()), max_global_tokens=number)
