"""GPT-2's outputs against the reference: all six classes, all arguments of the call."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import actual_output, agree, compare, pair, reference_output
from support.tiny import tiny

CLASSES = (
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair("GPT2Model", tmp_path_factory.mktemp("base"), n_layer=3)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    return pair("GPT2LMHeadModel", tmp_path_factory.mktemp("crossed"), add_cross_attention=True)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("G1")
def test_each_class_gives_every_logit_state_and_attention(name, tmp_path):
    both = pair(name, tmp_path, num_labels=3)
    agree(both, input_ids=ids((2, 7)), **EVERYTHING)


@pytest.mark.parity("G8")
def test_token_types_are_looked_up_in_the_word_table(base):
    agree(base, input_ids=ids((2, 6)), token_type_ids=ids((2, 6), seed=1))


@pytest.mark.parity("G11")
def test_last_hidden_state_is_after_ln_f(base):
    got = actual_output(base, input_ids=ids((2, 6)), output_hidden_states=True)
    expected = reference_output(base, input_ids=ids((2, 6)), output_hidden_states=True)
    compare(got, expected)
    assert len(got.hidden_states) == base.model.config.n_layer + 1
    np.testing.assert_array_equal(got.hidden_states[-1], got.last_hidden_state)


@pytest.mark.parametrize("positions", [[[3, 1, 4, 1, 5, 9], [0, 1, 2, 3, 23, 22]], [[3, 1, 4, 1, 5, 9]]])
def test_position_ids_are_taken_as_given(base, positions):
    # The mask is there for the reference only: without one, 4.57 takes a jump in the positions for a new document.
    mask = np.ones((2, 6), int)
    agree(base, input_ids=ids((2, 6)), position_ids=np.array(positions), attention_mask=mask, **EVERYTHING)


@pytest.mark.parity("G9")
def test_forward_never_derives_positions_from_the_mask(base):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    agree(base, input_ids=ids((2, 6)), attention_mask=mask, only=mask.astype(bool), **EVERYTHING)


@pytest.mark.parity("C12")
def test_right_padding_with_every_state(base):
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    agree(base, input_ids=ids((2, 6)), attention_mask=mask, **EVERYTHING)


@pytest.mark.parity("C12")
def test_holes_in_the_mask(base):
    mask = np.array([[1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1]])
    agree(base, input_ids=ids((2, 6)), attention_mask=mask, **EVERYTHING)


@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=["heads", "layers-heads"])
@pytest.mark.parity("C6")
def test_head_mask_scales_the_attentions_too(base, shape):
    mask = np.random.default_rng(2).choice([0.0, 1.0, 0.5], shape).astype(np.float32)
    assert 0.0 in mask
    agree(base, input_ids=ids((2, 6)), head_mask=mask, **EVERYTHING)


@pytest.mark.parity("C13")
def test_inputs_embeds_instead_of_ids(base):
    agree(base, inputs_embeds=numbers((2, 6, 32)), token_type_ids=ids((2, 6)), **EVERYTHING)


@pytest.mark.parity("C13")
def test_embeddings_of_the_ids_give_the_same_as_the_ids(base):
    tokens = ids((2, 6))
    table = np.asarray(base.params["wte"]["embedding"])
    np.testing.assert_allclose(
        actual_output(base, inputs_embeds=table[tokens]).last_hidden_state,
        actual_output(base, input_ids=tokens).last_hidden_state,
    )


@pytest.mark.parametrize("given", ["both", "none"])
@pytest.mark.parity("C13")
def test_both_or_none_of_ids_and_embeddings_is_an_error(base, given):
    inputs = {"input_ids": ids((1, 4)), "inputs_embeds": numbers((1, 4, 32))} if given == "both" else {}
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        base.model.apply({"params": base.params}, **inputs)


@pytest.mark.parametrize("tokens", [[[5, 6, 0]], [[0, 5, 6]]], ids=["right", "left"])
@pytest.mark.parity("C13")
def test_padding_without_a_mask_is_warned_of(base, tokens):
    apply = lambda tokens, **mask: base.model.apply({"params": base.params}, np.array(tokens), **mask)  # noqa: E731
    with pytest.warns(UserWarning, match="pad id 0, but there is no attention_mask"):
        apply(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(tokens, attention_mask=np.ones((1, 3), int))
        apply([[5, 0, 6]])


@pytest.mark.parity("G7")
def test_cross_attention_without_a_mask(crossed):
    agree(crossed, input_ids=ids((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), **EVERYTHING)


@pytest.mark.parity("G7")
def test_cross_attention_with_a_two_dimensional_mask(crossed):
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    states = numbers((2, 4, 32))
    agree(crossed, input_ids=ids((2, 5)), encoder_hidden_states=states, encoder_attention_mask=mask, **EVERYTHING)


@pytest.mark.parity("G7", "C12")
def test_cross_attention_with_a_three_dimensional_mask_and_a_row_that_sees_nothing(crossed):
    mask = np.random.default_rng(3).integers(0, 2, (2, 5, 4))
    mask[0, 2] = 0  # uniform weights, in the reference and here
    states = numbers((2, 4, 32))
    inputs = {"input_ids": ids((2, 5)), "encoder_hidden_states": states, "encoder_attention_mask": mask}
    agree(crossed, **inputs, **EVERYTHING)
    weights = actual_output(crossed, **inputs, **EVERYTHING).cross_attentions
    np.testing.assert_allclose(weights[:, 0, :, 2], 0.25, rtol=1e-6)


@pytest.mark.parity("G7")
def test_one_head_mask_serves_self_and_cross_attention(crossed):
    mask = np.array([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0]], np.float32)
    agree(crossed, input_ids=ids((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), head_mask=mask, **EVERYTHING)


@pytest.mark.parity("G7")
def test_without_encoder_states_the_cross_attention_is_skipped(crossed):
    agree(crossed, input_ids=ids((2, 5)), output_hidden_states=True)


@pytest.mark.parity("G7")
def test_encoder_states_need_cross_attention(base):
    with pytest.raises(ValueError, match="add_cross_attention"):
        base.model.apply({"params": base.params}, ids((1, 4)), encoder_hidden_states=numbers((1, 3, 32)))


@pytest.mark.parity("G2")
def test_fused_projection_is_stored_in_by_out(base):
    """Column h*K+k of the first third of c_attn.weight is dimension k of head h's query."""
    stored = base.reference.h[1].attn.c_attn.weight.detach().numpy()
    kernel = np.asarray(base.params["h"]["layers"]["attention"]["qkv"]["kernel"])[1]
    assert stored.shape == (32, 96)
    np.testing.assert_array_equal(kernel.reshape(32, 96), stored)


@pytest.mark.parity("C3")
def test_outputs_that_were_not_asked_for_are_absent(base):
    out = actual_output(base, input_ids=ids((1, 4)))
    assert list(out.keys()) == ["last_hidden_state"]
    assert out.hidden_states is None and out.attentions is None


@pytest.mark.parity("C3")
def test_output_switches_come_from_the_config_too(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, output_hidden_states=True, output_attentions=True, return_dict=False)
    got, expected = actual_output(both, input_ids=ids((2, 5))), reference_output(both, input_ids=ids((2, 5)))
    assert isinstance(got, tuple) and len(got) == len(expected) == 3
    close(got[0], expected[0], "logits")
    for i in range(3):
        close(got[1][i], expected[1][i], f"hidden_states[{i}]")
    # The call wins over the config.
    out = actual_output(
        both, input_ids=ids((2, 5)), return_dict=True, output_attentions=False, output_hidden_states=False
    )
    assert list(out.keys()) == ["logits"]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("C3")
def test_tuple_form_has_the_fields_in_order_without_those_that_are_none(name):
    model, params = tiny(name)
    inputs = {"input_ids": ids((2, 4)), "output_hidden_states": True, "output_attentions": True}

    def shapes(return_dict):
        return jax.eval_shape(lambda p: model.apply({"params": p}, **inputs, return_dict=return_dict), params)

    assert isinstance(shapes(False), tuple)
    assert shapes(False) == shapes(True).to_tuple()


@pytest.mark.parity("C3")
def test_outputs_read_by_name_index_and_slice(base):
    out = actual_output(base, input_ids=ids((1, 4)), output_hidden_states=True)
    assert out[0] is out["last_hidden_state"] is out.last_hidden_state
    assert out[1] is out.hidden_states and len(out[:2]) == len(out) == 2
    assert list(out) == ["last_hidden_state", "hidden_states"] and "attentions" not in out
    with pytest.raises(KeyError, match="attentions"):
        out["attentions"]


def test_logits_to_keep_computes_the_last_logits_only(crossed):
    whole, last = (actual_output(crossed, input_ids=ids((2, 6)), logits_to_keep=n).logits for n in (0, 2))
    assert last.shape == (2, 2, 67)
    np.testing.assert_allclose(last, whole[:, -2:], rtol=1e-6, atol=1e-6)


def test_logits_are_float32_whatever_the_compute_type(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, load={"torch_dtype": "bfloat16"})
    out = actual_output(both, input_ids=ids((2, 5)))
    assert out.logits.dtype == jnp.float32
    assert (
        np.abs(np.asarray(out.logits) - reference_output(both, input_ids=ids((2, 5))).logits.detach().numpy()).max()
        < 0.2
    )
