"""The sequence summary of the double heads, in all its settings (docs/parity.md, G14)."""

import itertools

import numpy as np
import pytest
from support.arrays import close, ids
from support.reference import actual_output, agree, agree_in_training, pair, reference_output

import jaxmodels as jm

SETTINGS = [
    {"summary_type": kind, "summary_use_proj": project, "summary_proj_to_labels": labels, "summary_activation": act}
    for kind, project, labels, act in itertools.product(
        ("last", "first", "mean", "cls_index"), (True, False), (True, False), (None, "tanh", "relu")
    )
]
SAMPLE = SETTINGS[1], SETTINGS[15], SETTINGS[26], SETTINGS[39]  # each type, each other value once


def _check(settings, shape, folder):
    both = pair("GPT2DoubleHeadsModel", folder, **settings)
    index = ids(shape[:-1], 5, low=0, high=shape[-1])
    for inputs in ({}, {"mc_token_ids": index}) if settings["summary_type"] == "cls_index" else ({},):
        got, expected = (run(both, input_ids=ids(shape), **inputs) for run in (actual_output, reference_output))
        close(got.mc_logits, expected.mc_logits, "mc_logits")
        close(got.logits, expected.logits, "logits")


@pytest.mark.parametrize("settings", SAMPLE, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parity("G14")
def test_summary_of_choices_in_a_sample_of_settings(settings, tmp_path):
    _check(settings, (2, 3, 5), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 5)], ids=["choices", "texts"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parity("G14")
def test_summary_of_choices_in_all_settings(settings, shape, tmp_path):
    _check(settings, shape, tmp_path)


@pytest.mark.parity("G14")
def test_mean_acts_on_the_choices_axis(tmp_path):
    """For [B,choices,T,D] the reference averages axis 1, which is the choices: a score per token, not per choice."""
    both = pair("GPT2DoubleHeadsModel", tmp_path, summary_type="mean")
    assert actual_output(both, input_ids=ids((2, 3, 5))).mc_logits.shape == (2, 5)


@pytest.mark.parity("G14")
def test_texts_without_a_choices_axis(tmp_path):
    agree(pair("GPT2DoubleHeadsModel", tmp_path), input_ids=ids((2, 5)), mc_token_ids=np.array([4, 1]))


@pytest.mark.parity("G14")
def test_gradients_through_projection_and_activation(tmp_path):
    both = pair("GPT2DoubleHeadsModel", tmp_path, summary_activation="tanh", summary_type="first")
    # Three choices of five tokens: "first" leaves one score per token, so the label is one of five.
    agree_in_training(both, ("mc_loss",), input_ids=ids((2, 3, 5)), mc_labels=np.array([4, 0]))


@pytest.mark.parity("G14")
def test_summary_by_attention_is_refused_like_in_the_reference():
    with pytest.raises(NotImplementedError, match="summary_type"):
        jm.GPT2Config(summary_type="attn")


@pytest.mark.parity("G14")
def test_unknown_summary_type_is_refused():
    with pytest.raises(ValueError, match="summary_type"):
        jm.GPT2Config(summary_type="max")


@pytest.mark.parametrize("index", [[5], [-1]])
@pytest.mark.parity("G14")
def test_index_outside_the_text_is_refused(index, tmp_path):
    both = pair("GPT2DoubleHeadsModel", tmp_path)
    with pytest.raises(ValueError, match="mc_token_ids"):
        both.model.apply({"params": both.params}, ids((1, 5)), mc_token_ids=np.array(index))
    assert np.isnan(actual_output(both, input_ids=ids((1, 5)), mc_token_ids=np.array(index)).mc_logits).all()


@pytest.mark.parity("G13")
def test_double_heads_score_one_label_per_choice_whatever_the_config_says(tmp_path):
    both = pair("GPT2DoubleHeadsModel", tmp_path, num_labels=5)
    assert both.reference.config.num_labels == 1
    assert both.params["multiple_choice_head"]["summary"]["kernel"].shape == (32, 1)
    agree(both, input_ids=ids((2, 3, 5)))
    model = jm.GPT2DoubleHeadsModel(both.model.config.replace(num_labels=5))
    assert model.apply({"params": both.params}, ids((2, 3, 5))).mc_logits.shape == (2, 3)
