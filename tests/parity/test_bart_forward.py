"""BART's outputs against the reference: both classes, every option and argument (docs/parity.md, A19)."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.arrays import EVERYTHING, close, ids, numbers
from support.bart_inputs import BATCH, DECODED, DECODER_HEADS, HEADS, LABELS, MASK, PADDED
from support.decoder_pieces import assert_encode_and_decode_are_one_call
from support.reference import Pair, actual_output, agree, compare, pair, reference_output, torch_model
from support.tiny import tiny

import jaxmodels as jm

NAME = "BartForConditionalGeneration"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return pair(NAME, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model whose decoder is deeper than its encoder."""
    return pair("BartModel", tmp_path_factory.mktemp("base"), encoder_layers=1, decoder_layers=3)


@pytest.fixture(scope="module")
def whole(plain):
    return actual_output(plain, **BATCH, **EVERYTHING)


@pytest.mark.parity("A19")
def test_masks_on_both_sides_and_every_output(plain, whole):
    compare(whole, reference_output(plain, **BATCH, **EVERYTHING))
    assert np.asarray(plain.params["final_logits_bias"]).any(), "the bias takes part in the comparison"


@pytest.mark.filterwarnings("ignore:input_ids begin or end with the pad id")
@pytest.mark.parity("A19")
def test_without_decoder_inputs_the_decoder_reads_the_encoder_s_shifted_right(base):
    out = actual_output(base, input_ids=PADDED, **EVERYTHING)
    compare(out, reference_output(base, input_ids=PADDED, **EVERYTHING))
    assert len(out.encoder_attentions) == 1 and len(out.decoder_attentions) == len(out.cross_attentions) == 3


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    return pair("BartModel", tmp_path_factory.mktemp("scaled"), scale_embedding=True, activation_function="relu")


@pytest.mark.parity("A19")
def test_scaled_embeddings(scaled):
    agree(scaled, **BATCH, **EVERYTHING)


@pytest.mark.parity("A19")
def test_given_embeddings_are_not_scaled(scaled):
    embeddings = {"inputs_embeds": numbers((2, 6, 32)), "decoder_inputs_embeds": numbers((2, 5, 32), seed=1)}
    agree(scaled, attention_mask=MASK, **embeddings, **EVERYTHING)


def untied_pair(folder) -> Pair:
    """Its file is written by hand: an untied BART does not survive 4.57's own (docs/parity.md, note 5)."""
    reference = torch_model(NAME, tie_word_embeddings=False)
    tensors = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.shared.weight"])
    reference.config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Pair(reference, *jm.load(folder, cls=NAME), folder)


@pytest.mark.parity("A19", "C9")
def test_untied_language_head(tmp_path):
    both = untied_pair(tmp_path)
    assert both.params["lm_head"]["kernel"].shape == (32, 67)
    agree(both, **BATCH)


@pytest.mark.parity("A19")
def test_positions_start_at_the_third_row_and_reach_the_last():
    """Rows 0 and 1 of both tables are never read; a text as long as the table reads all others."""
    model, params = tiny("BartModel")
    rows = ids((1, 24), low=3)

    def total(params):
        return jnp.sin(model.apply({"params": params}, rows, decoder_input_ids=rows).last_hidden_state).sum()

    gradients = jax.jit(jax.grad(total))(params)
    for stack in ("encoder", "decoder"):
        table = np.asarray(gradients[stack]["embeddings"]["table"]["embedding"])
        assert table.shape == (26, 32)
        np.testing.assert_array_equal(table.any(axis=1), [False, False, *[True] * 24])


@pytest.mark.parity("C6", "L9")
def test_head_masks_of_all_three_attentions(plain):
    masks = {"head_mask": HEADS, "decoder_head_mask": DECODER_HEADS, "cross_attn_head_mask": DECODER_HEADS[::-1].copy()}
    agree(plain, **BATCH, **masks, **EVERYTHING)


@pytest.mark.parity("C12")
def test_a_mask_for_every_query_of_the_encoder_is_that_of_the_keys_written_out(plain, whole):
    """Rank 3; 4.57's encoder takes none."""
    mask = np.repeat(MASK[:, None], 6, axis=1)
    encoded = jax.jit(lambda p: plain.model.apply({"params": p}, PADDED, attention_mask=mask, method="encode"))
    np.testing.assert_allclose(encoded(plain.params)[0], whole.encoder_last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("form", ["output", "tuple"])
@pytest.mark.parity("A19")
def test_encoder_outputs_take_the_encoder_s_place(form, plain, whole):
    names = ("last_hidden_state", "hidden_states", "attentions")
    arrays = {name: whole[f"encoder_{name}"] for name in names}
    encoded = jm.outputs.BaseModelOutput(**arrays) if form == "output" else tuple(arrays.values())

    @jax.jit
    def decode(params, encoded):
        rest = {name: value for name, value in BATCH.items() if name != "input_ids"}
        return plain.model.apply({"params": params}, **rest, encoder_outputs=encoded, **EVERYTHING)

    out = decode(plain.params, encoded)
    assert out.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(out[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parity("A19")
def test_encode_and_decode_give_what_one_call_gives(plain, whole):
    assert_encode_and_decode_are_one_call(plain, BATCH, whole)


@pytest.mark.parity("C3")
def test_tuples_have_the_reference_s_order(plain):
    got = actual_output(plain, **BATCH, labels=LABELS, return_dict=False, **EVERYTHING)
    expected = reference_output(plain, **BATCH, labels=LABELS, return_dict=False, **EVERYTHING)
    assert isinstance(got, tuple) and len(got) == len(expected)
    for mine, reference in zip(got, expected, strict=True):
        close(mine, torch.stack(reference) if isinstance(reference, tuple) else reference)


@pytest.mark.parity("C3")
def test_switches_of_the_config_hold_without_those_of_the_call(tmp_path):
    agree(pair("BartModel", tmp_path, output_attentions=True, output_hidden_states=True), **BATCH)


@pytest.mark.parametrize("attention", ["xla", "xla_blocked"])
@pytest.mark.parity("A19")
def test_padding_does_not_reach_the_states(attention):
    """Whatever stands in the padding, and however much of it there is; and rows do not see each other."""
    model, params = tiny("BartModel", choices={"attention": attention})
    apply = jax.jit(lambda **inputs: model.apply({"params": params}, **inputs, decoder_input_ids=ids((2, 3), low=3)))
    rows = ids((2, 9), low=3)
    mask = np.arange(9) < np.array([[4], [9]])
    one, other = (apply(input_ids=np.where(mask, rows, junk), attention_mask=mask.astype(int)) for junk in (1, 66))
    np.testing.assert_array_equal(one.last_hidden_state, other.last_hidden_state)
    short = jax.jit(lambda: model.apply({"params": params}, rows[:1, :4], decoder_input_ids=ids((2, 3), low=3)[:1]))()
    np.testing.assert_allclose(one.encoder_last_hidden_state[:1, :4], short.encoder_last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(one.last_hidden_state[:1], short.last_hidden_state, atol=1e-5)


BAD = {
    "nothing": ({}, "without input_ids, give decoder_input_ids"),
    "no source": ({"decoder_input_ids": DECODED}, "give either input_ids or inputs_embeds"),
    "both": ({**BATCH, "inputs_embeds": numbers((2, 6, 32))}, "either input_ids or inputs_embeds"),
    "both of the decoder": (
        {**BATCH, "decoder_inputs_embeds": numbers((2, 5, 32))},
        "either decoder_input_ids or decoder_inputs_embeds",
    ),
    "decoder id": ({**BATCH, "decoder_input_ids": DECODED + 60}, "decoder_input_ids holds ids from 61"),
    "embeddings": ({"inputs_embeds": numbers((2, 6, 31)), "decoder_input_ids": DECODED}, r"inputs_embeds has shape"),
    "mask": ({**BATCH, "attention_mask": MASK[:, 1:]}, r"attention_mask has shape \(2, 5\)"),
    "decoder mask": ({**BATCH, "decoder_attention_mask": MASK}, r"attention_mask has shape \(2, 6\)"),
    "rows": (
        {"input_ids": PADDED, "attention_mask": MASK, "decoder_input_ids": DECODED[:1]},
        r"encoder_hidden_states has shape \(2, 6, 32\)",
    ),
    "states": ({"encoder_outputs": (numbers((2, 6, 31)),), "decoder_input_ids": DECODED}, "encoder_hidden_states has"),
    "heads": ({**BATCH, "head_mask": DECODER_HEADS}, r"^head_mask has shape \(2, 8\), expected .*= \(2, 4\)"),
    "one row of heads": ({**BATCH, "head_mask": HEADS[0]}, r"head_mask has shape \(4,\), expected .*= \(2, 4\)"),
    "decoder heads": ({**BATCH, "decoder_head_mask": HEADS}, r"decoder_head_mask has shape \(2, 4\), .*= \(2, 8\)"),
    "cross heads": ({**BATCH, "cross_attn_head_mask": HEADS}, r"cross_attn_head_mask has shape \(2, 4\), .*= \(2, 8\)"),
    "long": ({"input_ids": ids((1, 25), low=3)}, r"25 tokens are more than the 24 positions .*max_position_embeddings"),
    "long decoder": (
        {"input_ids": PADDED[1:], "decoder_input_ids": ids((1, 25), low=3)},
        "25 tokens are more than the 24 positions",
    ),
    "labels": ({**BATCH, "labels": LABELS[:, 1:]}, "one label is needed for each"),
    "label": ({**BATCH, "labels": np.abs(LABELS)}, "labels are 0 to 66, or -100"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_call_says_what_came_and_what_was_expected(name, plain):
    inputs, message = jax.tree.map(jnp.asarray, BAD[name][0]), BAD[name][1]
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("error")
        jax.eval_shape(lambda: plain.model.apply({"params": plain.params}, **inputs))


def test_an_unknown_keyword_is_refused(plain):
    with pytest.raises(TypeError, match="position_ids"):
        plain.model.apply({"params": plain.params}, **BATCH, position_ids=PADDED)


def test_an_unknown_keyword_is_refused_where_the_encoder_does_not_run_too(plain):
    inputs = {"decoder_input_ids": DECODED, "encoder_outputs": (numbers((2, 6, 32)),), "position_ids": PADDED}
    with pytest.raises(TypeError, match="position_ids"):
        jax.eval_shape(lambda: plain.model.apply({"params": plain.params}, **inputs))


@pytest.mark.parametrize("key", ["pad_token_id", "decoder_start_token_id"])
@pytest.mark.parity("L12")
def test_labels_need_a_start_and_a_pad_id(key):
    model, params = tiny(NAME, **{key: None})
    with pytest.raises(ValueError, match="only with pad_token_id and decoder_start_token_id"):
        model.apply({"params": params}, PADDED, attention_mask=MASK, labels=LABELS)


@pytest.mark.parity("C13")
def test_padding_without_a_mask_warns(plain):
    with pytest.warns(UserWarning, match="no attention_mask"):
        plain.model.apply({"params": plain.params}, PADDED, method="encode")


BAD_CONFIG = {
    "heads": ({"decoder_attention_heads": 5}, "decoder_attention_heads=5 does not divide d_model=1024"),
    "layers": ({"encoder_layers": 0}, "encoder_layers must be a positive int"),
    "rate": ({"activation_dropout": 1.0}, "activation_dropout must be a rate"),
    "layer rate": ({"decoder_layerdrop": 1.5}, "decoder_layerdrop must be a rate"),
    "activation": ({"activation_function": "gello"}, "no activation 'gello'"),
    "pruned": ({"pruned_heads": {0: [1]}}, "its heads cannot be pruned"),
    "decoder only": ({"is_encoder_decoder": False}, "an encoder-decoder needs is_encoder_decoder=True"),
    "tied stacks": ({"tie_encoder_decoder": True}, "tie_encoder_decoder"),
    "chunks": ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward"),
    "pad": ({"pad_token_id": 60000}, "pad_token_id=60000 is outside the vocabulary"),
    "unknown": ({"encoder_layer": 2}, "did you mean 'encoder_layers'"),
}


@pytest.mark.parametrize("name", BAD_CONFIG)
@pytest.mark.parity("C1")
def test_what_cannot_be_is_refused_by_name(name):
    values, message = BAD_CONFIG[name]
    with pytest.raises(ValueError, match=message):
        jm.BartConfig(**values)
