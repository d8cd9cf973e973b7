"""Wrong input gets one clear error outside jit, and NaN inside it, where nothing can be raised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.tiny import tiny

GOOD = ids((2, 4))

BAD_CALLS = {
    "one text without a batch": ({"input_ids": GOOD[0]}, ValueError, r"got \(4,\); a single sequence is \[1,T\]"),
    "four axes": ({"input_ids": GOOD[None, None]}, ValueError, "input_ids has shape"),
    "floats for ids": ({"input_ids": GOOD * 1.0}, TypeError, "input_ids holds integers, got float"),
    "no token": ({"input_ids": GOOD[:, :0]}, ValueError, "input_ids is empty"),
    "no text": ({"input_ids": GOOD[:0]}, ValueError, "input_ids is empty"),
    "id too large": ({"input_ids": GOOD + 66}, ValueError, r"the vocabulary has 67 entries \(0 to 66\)"),
    "negative id": ({"input_ids": GOOD - 60}, ValueError, "input_ids holds ids from -"),
    "too long": ({"input_ids": ids((1, 25))}, ValueError, "25 tokens are more than the 24 positions"),
    "mask too long": ({"attention_mask": np.ones((2, 5), int)}, ValueError, r"attention_mask has shape \(2, 5\)"),
    "mask turned": ({"attention_mask": np.ones((4, 2), int)}, ValueError, r"attention_mask has shape \(4, 2\)"),
    "positions too large": ({"position_ids": GOOD * 0 + 24}, ValueError, "the position table has 24 entries"),
    "positions of another length": (
        {"position_ids": np.arange(5)[None]},
        ValueError,
        r"position_ids has shape \(1, 5\)",
    ),
    "positions of other rows": (
        {"position_ids": GOOD[[0, 1, 1]] * 0},
        ValueError,
        r"has shape \(3, 4\), expected \(2, 4\)",
    ),
    "floats for positions": ({"position_ids": GOOD * 0.5}, TypeError, "position_ids holds integers"),
    "types of another length": ({"token_type_ids": GOOD[:, :2]}, ValueError, r"token_type_ids has shape \(2, 2\)"),
    "type outside the vocabulary": ({"token_type_ids": GOOD + 66}, ValueError, "token_type_ids holds ids"),
    "head mask of another shape": (
        {"head_mask": np.ones((3, 4))},
        ValueError,
        r"head_mask has shape \(3, 4\), expected \(4,\) or \(2, 4\)",
    ),
    "labels of another length": ({"labels": GOOD[:, :3]}, ValueError, "labels has shape"),
    "floats for labels": ({"labels": GOOD * 1.0}, TypeError, "labels are integers"),
    "label too large": ({"labels": GOOD + 66}, ValueError, "labels are 0 to 66, or -100"),
    "negative label": ({"labels": np.where(GOOD > 30, -1, GOOD)}, ValueError, "or -100 to be ignored; got -1"),
    "unknown keyword": ({"attention_maks": GOOD}, TypeError, "attention_maks"),
}


@pytest.fixture(scope="module")
def plain():
    return tiny()


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call_says_what_came_and_what_was_expected(plain, name):
    inputs, error, message = BAD_CALLS[name]
    model, params = plain
    with pytest.raises(error, match=message):
        model.apply({"params": params}, **{"input_ids": GOOD, **inputs})


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        (numbers((2, 4, 31)), r"shape \(2, 4, 31\), expected \[B,T,32\]"),
        (numbers((2, 32)), r"has shape \(2, 32\)"),
        (numbers((2, 0, 32)), "inputs_embeds"),
    ],
    ids=["width", "rank", "empty"],
)
def test_bad_embeddings(plain, embeds, message):
    model, params = plain
    with pytest.raises(ValueError, match=message):
        model.apply({"params": params}, inputs_embeds=embeds)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"encoder_hidden_states": numbers((2, 3, 31))}, "encoder_hidden_states"),
        ({"encoder_hidden_states": numbers((1, 3, 32))}, "encoder_hidden_states"),
        (
            {"encoder_hidden_states": numbers((2, 3, 32)), "encoder_attention_mask": np.ones((2, 4))},
            "encoder_attention_mask",
        ),
        (
            {"encoder_hidden_states": numbers((2, 3, 32)), "encoder_attention_mask": np.ones((2, 5, 3))},
            "encoder_attention_mask",
        ),
    ],
    ids=["width", "batch", "mask", "mask-3d"],
)
def test_bad_cross_attention(inputs, message):
    model, params = tiny(add_cross_attention=True)
    with pytest.raises(ValueError, match=message):
        model.apply({"params": params}, GOOD, **inputs)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("GPT2ForSequenceClassification", {"labels": np.array([1])}),
        ("GPT2ForSequenceClassification", {"labels": np.array([1, 2])}),
        ("GPT2ForTokenClassification", {"labels": GOOD[:, :3]}),
        ("GPT2ForQuestionAnswering", {"start_positions": np.array([1]), "end_positions": np.array([1])}),
        ("GPT2DoubleHeadsModel", {"mc_labels": np.array([[1, 0]])}),
    ],
)
def test_bad_labels_of_the_heads(name, inputs):
    model, params = tiny(name)
    given = {"input_ids": ids((3, 2, 4)) if name == "GPT2DoubleHeadsModel" else GOOD}
    with pytest.raises(ValueError, match="label"):
        model.apply({"params": params}, **given, **inputs)


@pytest.fixture(scope="module")
def compiled(plain):
    return jax.jit(lambda params, inputs: plain[0].apply({"params": params}, **inputs).logits)


@pytest.mark.parametrize("bad", [-1, -100, 67, 10_000])
@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "position_ids"])
def test_ids_outside_their_table_are_nan_in_that_example_under_jit(plain, compiled, name, bad):
    _, params = plain
    inputs = {
        "input_ids": jnp.asarray(GOOD),
        "token_type_ids": jnp.asarray(GOOD),
        "position_ids": jnp.arange(4) + 0 * GOOD,
    }
    inputs[name] = inputs[name].at[0, 2].set(bad)
    logits = compiled(params, inputs)
    assert np.isnan(logits[0, 2:]).all() and np.isfinite(logits[1]).all()


@pytest.mark.parametrize("bad", [-1, 67])
def test_labels_outside_the_vocabulary_are_nan_under_jit(plain, bad):
    model, params = plain
    loss = jax.jit(lambda labels: model.apply({"params": params}, GOOD, labels=labels).loss)
    labels = jnp.asarray(GOOD)
    assert np.isfinite(loss(labels)) and np.isfinite(loss(labels.at[0, 2].set(-100)))
    assert np.isnan(loss(labels.at[0, 2].set(bad)))


def test_constants_inside_jit_are_checked_like_outside(plain):
    model, params = plain
    run = lambda tokens: jax.jit(lambda p: model.apply({"params": p}, tokens).logits)(params)  # noqa: E731
    assert np.isfinite(run(jnp.asarray(GOOD))).all()
    with pytest.raises(ValueError, match="the vocabulary has 67 entries"):
        run(jnp.asarray(GOOD) + 66)
