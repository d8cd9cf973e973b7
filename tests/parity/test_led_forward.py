"""LED's outputs against the reference: every mask, window, class and argument (docs/parity.md, L1 to L9, L13, L15)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import EVERYTHING, close, ids, numbers
from support.bart_inputs import DECODER_HEADS, HEADS
from support.led_pairs import agree_on_globals, expected_of, real_globals
from support.reference import actual_output, agree, compare, pair, reference_output
from support.tiny import random_params, tiny

import jaxmodels as jm

SLOTS, WINDOW = 5, 4
LENGTHS = {"a multiple": 12, "no multiple": 11}


def at(length, *rows):
    """A mask [B,length] with ones at these places of each row."""
    return np.array([[int(t in row) for t in range(length)] for row in rows])


def padded(length, *counts):
    return (np.arange(length) < np.array(counts)[:, None]).astype(int)


def masks(length):
    """(attention_mask, global_attention_mask), by what is special about them."""
    full, right = np.ones((3, length), int), padded(length, length, length - 3, 2)
    holes = np.random.default_rng(5).integers(0, 2, (3, length))
    many = at(length, (0, 1, 6), (10,), ())
    return {
        "none": (full, at(length, (), (), ())),
        "the first": (full, at(length, (0,), (0,), (0,))),
        "one row only": (full, at(length, (), (7,), ())),
        "scattered, in each row another number": (full, at(length, (0, 5, 10), (3,), (2, 3, 4, 6, 9))),
        "right padding": (right, at(length, (0, 6), (0, 4, 7), (0, 1))),
        "globals on padding": (right, at(length, (0,), (2, length - 1), (1, 5, 6))),
        "minus one marks padding too": (full, np.where(right, many, -1)),
        "minus one and a mask": (right, np.where(padded(length, 9, length, 2), many, -1)),
        "holes": (holes, at(length, (1, 8), (2, 3, 5), (0, 9, 10))),
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair("LEDModel", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(base):
    """One compiled call for all masks of a length: the slots for global tokens are static, their number is not."""
    options = {"max_global_tokens": SLOTS, **EVERYTHING}
    apply = jax.jit(lambda params, inputs: base.model.apply({"params": params}, **inputs, **options))
    return lambda inputs: apply(base.params, inputs)


def inputs_of(length, mask, global_mask):
    batch = {"input_ids": ids((3, length), low=3), "attention_mask": mask, "global_attention_mask": global_mask}
    return batch | {"decoder_input_ids": ids((3, 4), seed=1, low=3), "decoder_attention_mask": padded(4, 4, 3, 2)}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", masks(12))
@pytest.mark.parity("L5", "L6", "L7", "L8")
def test_every_mask_gives_every_output(name, length, base, run):
    length = LENGTHS[length]
    agree_on_globals(base, run, SLOTS, inputs_of(length, *masks(length)[name]))


@pytest.mark.parity("L8")
def test_layout_of_the_attentions(base, run):
    """Said once without the reference: what adds up to one, what is zero, and where the token itself stands."""
    length, used = 11, 3
    mask, global_mask = masks(length)["right padding"]
    out = run(inputs_of(length, mask, global_mask))
    local, wide = np.asarray(out.encoder_attentions), np.asarray(out.encoder_global_attentions)
    assert local.shape == (2, 3, 4, length, SLOTS + WINDOW + 1) and wide.shape == (2, 3, 4, 12, SLOTS)
    is_global = real_globals(global_mask, mask)
    ordinary = (mask == 1) & ~is_global
    sums = local.sum(axis=-1).transpose(1, 3, 0, 2)
    np.testing.assert_allclose(sums[ordinary], 1, atol=1e-5)
    assert not sums[~ordinary].any()
    itself = local[..., SLOTS + WINDOW // 2].transpose(1, 3, 0, 2)
    assert (itself[ordinary] > 0).all()
    there = np.arange(SLOTS) < is_global.sum(axis=1)[:, None]
    sums = wide.sum(axis=3).transpose(1, 3, 0, 2)
    np.testing.assert_allclose(sums[there], 1, atol=1e-5)
    assert not sums[~there].any() and not wide[:, :, :, length:].any() and there[:, :used].any(axis=0).all()
    assert out.encoder_hidden_states.shape == (3, 3, length, 32), "hidden states are not padded"


@pytest.mark.parity("L3")
def test_states_without_masks(base):
    agree(base, input_ids=ids((2, 7), low=3), **EVERYTHING)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parity("L4")
def test_texts_shorter_than_the_window(length, base):
    global_mask = at(length, (0,), ())
    inputs = {"input_ids": ids((2, length), low=3), "global_attention_mask": global_mask, **EVERYTHING}
    compare(actual_output(base, max_global_tokens=1, **inputs), expected_of(base, **inputs))


@pytest.mark.parity("L2")
def test_number_of_global_tokens_is_taken_from_a_concrete_mask(base):
    """Then the attentions have the reference's width, without spare slots."""
    inputs = {"input_ids": ids((2, 8), low=3), "global_attention_mask": at(8, (0, 5), (3,)), **EVERYTHING}
    compare(base.model.apply({"params": base.params}, **inputs), expected_of(base, **inputs))


@pytest.mark.parametrize("windows", [[4, 8], [8, 4, 4, 8, 8], [6, 6]], ids=str)
@pytest.mark.parity("L2")
def test_a_window_for_each_layer(windows, tmp_path):
    """Where they differ, the attentions are a tuple of layers."""
    both = pair("LEDModel", tmp_path, attention_window=windows, encoder_layers=len(windows))
    inputs = {"input_ids": ids((2, 13), low=3), "attention_mask": padded(13, 13, 9)}
    inputs |= {"global_attention_mask": at(13, (0, 9), (4,)), **EVERYTHING}
    out = actual_output(both, max_global_tokens=2, **inputs)
    compare(out, expected_of(both, **inputs))
    assert isinstance(out.encoder_attentions, tuple) == (len(set(windows)) > 1)
    assert [layer.shape[-1] for layer in out.encoder_attentions] == [2 + window + 1 for window in windows]


@pytest.mark.parametrize("window", [2, 6, 50])
@pytest.mark.parity("L2", "L5")
def test_a_window_is_a_band_of_bart_s_attention(window):
    """A window of 2, which the reference does not take, one beyond the text, and one between."""
    model, params = tiny("LEDModel", attention_window=window)
    rows, mask = ids((2, 9), low=3), padded(9, 9, 6)
    got = jax.jit(lambda p: model.apply({"params": p}, rows, attention_mask=mask, method="encode"))(params)
    bart = jm.BartModel(jm.BartConfig(**{key: getattr(model.config, key) for key in TAKEN}, max_position_embeddings=32))
    moved = random_params(bart)
    moved["shared"], moved["encoder"] = params["shared"], params["encoder"]
    table = params["encoder"]["embeddings"]["table"]["embedding"]
    moved["encoder"]["embeddings"]["table"]["embedding"] = jnp.pad(table, ((2, 0), (0, 0)))
    distance = np.abs(np.arange(9)[:, None] - np.arange(9))
    band = (distance <= window // 2) & (mask[:, None] == 1)
    dense = jax.jit(lambda p: bart.apply({"params": p}, rows, attention_mask=band, method="encode"))(moved)
    np.testing.assert_allclose(got[0][mask == 1], dense[0][mask == 1], atol=1e-5)


TAKEN = ("vocab_size", "d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads")


@pytest.mark.parity("L9")
def test_head_masks_of_all_attentions(base):
    inputs = inputs_of(12, *masks(12)["scattered, in each row another number"])
    heads = {"head_mask": HEADS, "decoder_head_mask": DECODER_HEADS, "cross_attn_head_mask": DECODER_HEADS[::-1].copy()}
    inputs |= {**heads, **EVERYTHING}
    compare(actual_output(base, max_global_tokens=SLOTS, **inputs), expected_of(base, **inputs))


@pytest.mark.parity("C13", "L4")
def test_embeddings_in_place_of_ids(base):
    """The reference pads them with the pad id's vector; no token of the text sees it."""
    inputs = {"inputs_embeds": numbers((2, 7, 32)), "decoder_inputs_embeds": numbers((2, 5, 32), seed=1)}
    inputs |= {"global_attention_mask": at(7, (0,), (2, 6)), "attention_mask": padded(7, 7, 5), **EVERYTHING}
    compare(actual_output(base, max_global_tokens=1, **inputs), expected_of(base, **inputs))


@pytest.mark.parity("L15")
def test_positions_have_no_offset(base):
    """A text as long as the table reads every row of it."""
    rows = ids((1, 32), low=3)

    def total(params):
        return jnp.sin(base.model.apply({"params": params}, rows, method="encode").last_hidden_state).sum()

    table = jax.jit(jax.grad(total))(base.params)["encoder"]["embeddings"]["table"]["embedding"]
    assert table.shape == (32, 32) and np.asarray(table).any(axis=1).all()
    assert base.params["decoder"]["embeddings"]["table"]["embedding"].shape == (24, 32)


def test_encode_and_decode_give_what_one_call_gives(base, run):
    inputs = inputs_of(12, *masks(12)["right padding"])
    whole = run(inputs)

    @jax.jit
    def parts(params, inputs):
        source = {name: inputs[name] for name in ("attention_mask", "global_attention_mask")}
        options = {"max_global_tokens": SLOTS, "method": "encode", **EVERYTHING}
        encoded = base.model.apply({"params": params}, inputs["input_ids"], **source, **options)
        rest = {name: inputs[name] for name in ("attention_mask", "decoder_input_ids", "decoder_attention_mask")}
        forms = (encoded, encoded.to_tuple())
        return encoded, [base.model.apply({"params": params}, **rest, encoder_outputs=e, **EVERYTHING) for e in forms]

    encoded, outs = parts(base.params, inputs)
    assert isinstance(encoded, jm.LEDEncoderBaseModelOutput)
    for out in outs:
        assert isinstance(out, jm.LEDSeq2SeqModelOutput) and out.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(out[name], value, atol=1e-5, err_msg=name)


HEADED = {
    "LEDForConditionalGeneration": ({}, jm.LEDSeq2SeqLMOutput),
    "LEDForSequenceClassification": ({"num_labels": 3}, jm.LEDSeq2SeqSequenceClassifierOutput),
    "LEDForQuestionAnswering": ({}, jm.LEDSeq2SeqQuestionAnsweringModelOutput),
}


@pytest.mark.filterwarnings("ignore:.*LEDForSequenceClassification")
@pytest.mark.parametrize("name", HEADED)
@pytest.mark.parity("L1")
def test_each_head_gives_every_output(name, tmp_path):
    """The decoder reads the encoder's ids; each row has two eos."""
    config, output = HEADED[name]
    both = pair(name, tmp_path, **config)
    rows = ids((2, 7), low=3)
    rows[[0, 0, 1, 1], [2, 6, 0, 4]] = 2
    inputs = {"input_ids": rows, "global_attention_mask": at(7, (0,), (3, 6)), **EVERYTHING}
    got = actual_output(both, **inputs, max_global_tokens=2)
    compare(got, expected_of(both, **inputs))
    assert type(got) is output


@pytest.mark.parity("C3")
def test_tuples_have_the_reference_s_order(base):
    inputs = inputs_of(12, *masks(12)["the first"]) | EVERYTHING
    got = actual_output(base, **inputs, max_global_tokens=1, return_dict=False)
    expected = expected_of(base, **inputs)
    assert isinstance(got, tuple) and len(got) == len(expected)
    for mine, value in zip(got, expected.values(), strict=True):
        close(mine, torch.stack(value) if isinstance(value, tuple) else value)


@pytest.mark.filterwarnings("ignore:.*LEDForSequenceClassification")
@pytest.mark.parity("L13")
def test_the_decoder_s_state_at_the_last_eos_is_classified(tmp_path):
    """With decoder inputs of its own, of the same length; the eos is still that of input_ids."""
    both = pair("LEDForSequenceClassification", tmp_path)
    rows, own = ids((2, 6), low=3), ids((2, 6), seed=4, low=3)
    rows[[0, 1], [3, 5]] = 2
    out = actual_output(both, input_ids=rows, decoder_input_ids=own)
    close(out.logits, reference_output(both, input_ids=rows, decoder_input_ids=own).logits)
    moved = own.copy()
    moved[0, 4:], moved[1, 5] = 9, 9  # beyond the first row's eos, and at the second's
    again = actual_output(both, input_ids=rows, decoder_input_ids=moved)
    np.testing.assert_allclose(again.logits[0], out.logits[0], atol=1e-5)
    assert np.abs(again.logits[1] - out.logits[1]).max() > 1e-3
