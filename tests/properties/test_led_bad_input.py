"""LED's bad input, each with one clear error, or NaN where none can be raised (docs/parity.md, L2, L13, L15)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.bart_inputs import DECODER_HEADS, HEADS
from support.tiny import tiny

import jaxmodels as jm

BAD_CONFIG = {
    "odd window": ({"attention_window": 511}, "attention_window must be an even number above 0, got 511"),
    "zero window": ({"attention_window": 0}, "got 0"),
    "negative window": ({"attention_window": -4}, "got -4"),
    "one odd window": ({"attention_window": [4, 5], "encoder_layers": 2}, "got 5"),
    "one zero window": ({"attention_window": [4, 0], "encoder_layers": 2}, r"got \[4, 0\]"),
    "window of a float": ({"attention_window": 4.0}, "got 4.0"),
    "too few windows": ({"attention_window": [4, 4, 4]}, "one for each of the 12 encoder layers; got 3"),
    "no window": ({"attention_window": []}, "one for each of the 12 encoder layers; got 0"),
    "no positions": ({"max_encoder_position_embeddings": 0}, "max_encoder_position_embeddings must be a positive int"),
    "heads": ({"encoder_attention_heads": 5}, "encoder_attention_heads=5 does not divide d_model=1024"),
    "unknown": ({"attention_windows": 4}, "did you mean 'attention_window'"),
}


@pytest.mark.parametrize("name", BAD_CONFIG)
@pytest.mark.parity("L2", "C1")
def test_what_cannot_be_is_refused_by_name(name):
    values, message = BAD_CONFIG[name]
    with pytest.raises(ValueError, match=message):
        jm.LEDConfig(**values)


WORDS = ids((2, 6), low=3)
BATCH = {"input_ids": WORDS, "decoder_input_ids": WORDS}
FLAGS = np.zeros((2, 6), int)
BAD_CALLS = {
    "long": (
        {"input_ids": ids((1, 33), low=3)},
        r"33 tokens are more than the 32 positions .*\(max_encoder_position_embeddings\)",
    ),
    "long decoder": (
        {"decoder_input_ids": ids((2, 25), low=3)},
        r"25 tokens are more than the 24 positions .*\(max_decoder_position_embeddings\)",
    ),
    "global mask too long": (
        {"global_attention_mask": np.zeros((2, 7), int)},
        r"global_attention_mask has the shape of input_ids, \(2, 6\); got \(2, 7\)",
    ),
    "global mask of other rows": ({"global_attention_mask": FLAGS[:1]}, r"\(2, 6\); got \(1, 6\)"),
    "global mask without rows": ({"global_attention_mask": FLAGS[0]}, r"\(2, 6\); got \(6,\)"),
    "global mask of 2": ({"global_attention_mask": FLAGS + 2}, "global_attention_mask holds 0 and 1 .*got 2"),
    "global mask of -2": ({"global_attention_mask": FLAGS - 2}, "got -2"),
    "global mask of a half": ({"global_attention_mask": FLAGS + 0.5}, "got 0.5"),
    "mask": ({"attention_mask": np.ones((2, 5), int)}, r"attention_mask has shape \(2, 5\), expected \(2, 6\)"),
    "mask of rank 3": ({"attention_mask": np.ones((2, 6, 6), int)}, r"attention_mask has shape \(2, 6, 6\)"),
    "head mask": ({"head_mask": DECODER_HEADS}, r"^head_mask has shape \(2, 8\), expected .*= \(2, 4\)"),
    "decoder head mask": ({"decoder_head_mask": HEADS}, r"decoder_head_mask has shape \(2, 4\), .*= \(2, 8\)"),
    "cross head mask": ({"cross_attn_head_mask": HEADS[0]}, r"cross_attn_head_mask has shape \(4,\), .*= \(2, 8\)"),
    "both": ({"inputs_embeds": numbers((2, 6, 32))}, "either input_ids or inputs_embeds"),
    "nothing": ({"input_ids": None, "decoder_input_ids": None}, "without input_ids, give decoder_input_ids"),
    "id": ({"input_ids": WORDS + 60}, "the vocabulary has 67 entries"),
}


@pytest.fixture(scope="module")
def led():
    return tiny("LEDModel")


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call_says_what_came_and_what_was_expected(led, name):
    inputs, message = BAD_CALLS[name]
    inputs = jax.tree.map(jnp.asarray, {**BATCH, **inputs})
    model, params = led
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.apply({"params": params}, **inputs))


def test_traced_texts_that_are_too_long_are_refused_by_their_length(led):
    model, params = led
    apply = jax.jit(lambda rows, own: model.apply({"params": params}, rows, decoder_input_ids=own))
    for lengths, message in (((33, 4), "33 tokens are more than the 32"), ((4, 25), "25 tokens are more than the 24")):
        with pytest.raises(ValueError, match=message):
            apply(*(ids((1, length), low=3) for length in lengths))


def with_eos(*places):
    rows = ids((len(places), 6), low=3)
    for row, at in zip(rows, places, strict=True):
        row[list(at)] = 2
    return rows


@pytest.fixture(scope="module")
def classifier():
    return tiny("LEDForSequenceClassification", encoder_layers=1, decoder_layers=1)


@pytest.mark.parity("L13")
def test_rows_with_different_numbers_of_eos_or_none_are_refused(classifier):
    model, params = classifier
    with pytest.raises(
        ValueError, match=r"all sequences have the same number of eos \(2\), at least one; got \[1, 2\]"
    ):
        model.apply({"params": params}, with_eos((3,), (0, 5)))
    with pytest.raises(ValueError, match=r"got \[0, 0\]"):
        model.apply({"params": params}, with_eos((), ()))


@pytest.mark.parity("L13")
def test_traced_rows_with_different_numbers_of_eos_are_nan(classifier):
    model, params = classifier
    apply = jax.jit(lambda rows: model.apply({"params": params}, rows).logits)
    assert np.isfinite(apply(with_eos((1, 3), (0, 5)))).all()
    assert np.isnan(apply(with_eos((3,), (0, 5)))).all() and np.isnan(apply(with_eos((), ()))).all()


@pytest.mark.parity("L13")
def test_embeddings_have_no_eos(classifier):
    model, params = classifier
    with pytest.raises(NotImplementedError, match="reads the eos in input_ids; inputs_embeds has none"):
        model.apply({"params": params}, inputs_embeds=numbers((2, 6, 32)), decoder_input_ids=WORDS)


@pytest.mark.parity("L13")
def test_decoder_inputs_of_another_length_have_no_state_at_the_eos(classifier):
    model, params = classifier
    with pytest.raises(ValueError, match=r"both have the same length; input_ids \(1, 6\), decoder \(1, 4\)"):
        jax.eval_shape(lambda: model.apply({"params": params}, with_eos((3,)), decoder_input_ids=WORDS[:1, :4]))


@pytest.mark.parametrize("eos", [None, [2, 3]], ids=str)
@pytest.mark.parity("L13")
def test_classification_needs_one_eos(eos):
    with pytest.raises(ValueError, match="needs one eos_token_id in its config"):
        tiny("LEDForSequenceClassification", eos_token_id=eos)


@pytest.mark.parity("L12")
def test_one_of_two_positions_is_refused():
    model, params = tiny("LEDForQuestionAnswering")
    with pytest.raises(ValueError, match="start_positions and end_positions go together"):
        model.apply({"params": params}, WORDS, start_positions=np.array([1, 2]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parity("C13")
def test_padding_without_a_mask_is_warned_of_unless_the_global_mask_marks_it(led):
    model, params = led
    rows = WORDS.copy()
    rows[0, 4:] = 1
    with pytest.raises(UserWarning, match="pad id 1, but there is no attention_mask"):
        model.apply({"params": params}, rows, method="encode")
    marked = {"global_attention_mask": np.where(rows == 1, -1, 0), "method": "encode"}
    jax.eval_shape(lambda: model.apply({"params": params}, rows, **marked))
