"""Every option of the config that changes GPT-2's numbers, against the reference."""

import numpy as np
import pytest
from support.arrays import EVERYTHING, ids, numbers
from support.reference import actual_output, agree, pair

import jaxmodels as jm

OPTIONS = {
    "G3_scores_without_scale": {"scale_attn_weights": False},
    "G4_scale_by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "G4_scale_by_layer_alone": {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "n_layer": 3},
    "G5_reordered_and_upcast": {"reorder_and_upcast_attn": True},
    "G5_reordered_with_both_scales": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "G6_inner_width": {"n_inner": 20},
    "G6_activation": {"activation_function": "gelu"},
    "C5_chunks_of_the_feed_forward_change_nothing": {"chunk_size_feed_forward": 2},
    "C9_untied_head": {"tie_word_embeddings": False},
    "norm_epsilon": {"layer_norm_epsilon": 0.3},
    "one_head": {"n_head": 1},
    "one_layer": {"n_layer": 1},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parity("G3", "G4", "G5", "G6", "C5", "C9")
def test_every_option_gives_the_reference_s_numbers(option, tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, **OPTIONS[option])
    agree(both, input_ids=ids((2, 6)), attention_mask=np.array([[1] * 6, [1] * 4 + [0] * 2]), **EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "silu", "quick_gelu", "tanh", "gelu_fast", "mish", "relu2", "laplace"])
@pytest.mark.parity("G6")
def test_other_activations_inside_the_model_give_the_reference_s_numbers(name, tmp_path):
    agree(pair("GPT2Model", tmp_path, activation_function=name), input_ids=ids((2, 6)))


@pytest.mark.parametrize("reorder", [False, True])
@pytest.mark.parity("G4", "G7")
def test_scales_hold_for_cross_attention_too(reorder, tmp_path):
    options = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": reorder, "add_cross_attention": True}
    both = pair("GPT2LMHeadModel", tmp_path, n_layer=3, **options)
    agree(both, input_ids=ids((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), **EVERYTHING)


@pytest.mark.parity("C9")
def test_tied_head_is_the_word_table_and_has_no_parameter_of_its_own(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path)
    assert "lm_head" not in both.params
    changed = {**both.params, "transformer": {**both.params["transformer"]}}
    table = both.params["transformer"]["wte"]["embedding"]
    changed["transformer"]["wte"] = {"embedding": table.at[5].set(0.0)}
    logits = both.model.apply({"params": changed}, ids((1, 3), low=10)).logits
    np.testing.assert_array_equal(logits[..., 5], 0.0)


@pytest.mark.parity("C9")
def test_untied_head_has_its_own_parameter(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, tie_word_embeddings=False)
    stored = both.reference.lm_head.weight.detach().numpy()
    np.testing.assert_array_equal(both.params["lm_head"]["kernel"], stored.T)
    assert not np.array_equal(stored, both.reference.transformer.wte.weight.detach().numpy())


@pytest.mark.parametrize("attention", ["xla", "xla_blocked"])
def test_named_attention_implementations_give_the_same_numbers(attention, tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, load={"attention": attention})
    agree(both, input_ids=ids((2, 6)), attention_mask=np.array([[1] * 6, [1] * 4 + [0] * 2]))


def test_attentions_of_an_implementation_that_never_forms_them_are_refused(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, load={"attention": "xla_blocked"})
    with pytest.raises(ValueError, match="xla_blocked"):
        actual_output(both, input_ids=ids((2, 6)), output_attentions=True)


def test_unknown_attention_implementation_is_refused_by_name():
    with pytest.raises(ValueError, match="attention is one of auto, .*got 'flash9'"):
        jm.GPT2Model(jm.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2), attention="flash9")
