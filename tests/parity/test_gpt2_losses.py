"""Losses, and the gradient of every parameter, against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import close, ids, numbers, trees_agree
from support.reference import actual_output, agree_in_training, pair, reference_gradients, reference_output


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return pair("GPT2LMHeadModel", tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    return pair("GPT2DoubleHeadsModel", tmp_path_factory.mktemp("choices"))


def _labels(shape, seed=7):
    labels = ids(shape, seed)
    labels[..., 2] = -100
    return labels


@pytest.mark.parity("G12")
def test_language_loss_shifts_and_ignores(language):
    agree_in_training(language, input_ids=ids((2, 6)), labels=_labels((2, 6)))


@pytest.mark.parity("G12")
def test_language_loss_with_padding_types_and_positions(language):
    mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    inputs = {"input_ids": ids((2, 6)), "token_type_ids": ids((2, 6), 1), "position_ids": np.arange(3, 9)[None]}
    agree_in_training(language, **inputs, attention_mask=mask, labels=np.where(mask, _labels((2, 6)), -100))


@pytest.mark.parity("G12")
def test_left_padding_does_not_touch_the_gradients(language):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    inputs = {"input_ids": np.where(mask, ids((2, 6)), 0), "attention_mask": mask, "position_ids": positions}
    labels = np.where(mask, ids((2, 6), 7), -100)
    labels[0, 2] = -100  # predicted from a pad, whose state is undefined
    gradients = jax.jit(jax.grad(lambda params: language.model.apply({"params": params}, **inputs, labels=labels).loss))
    language.reference.zero_grad()
    reference_output(language, **inputs, labels=labels).loss.backward()
    trees_agree(gradients(language.params), reference_gradients(language))


@pytest.mark.parity("G12")
def test_all_labels_ignored_gives_nan_like_the_reference(language):
    labels = np.full((2, 6), -100)
    assert reference_output(language, input_ids=ids((2, 6)), labels=labels).loss.isnan()
    assert jnp.isnan(actual_output(language, input_ids=ids((2, 6)), labels=labels).loss)


@pytest.mark.parity("G7")
def test_gradients_reach_the_cross_attention(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, add_cross_attention=True)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    cross = {"encoder_hidden_states": numbers((2, 4, 32)), "encoder_attention_mask": mask}
    agree_in_training(both, input_ids=ids((2, 5)), labels=ids((2, 5), 1), **cross)


@pytest.mark.parametrize(
    "options",
    [
        {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        {"reorder_and_upcast_attn": True, "scale_attn_weights": False},
        {"tie_word_embeddings": False, "n_inner": 20, "activation_function": "relu"},
    ],
    ids=["by-layer", "upcast-unscaled", "untied"],
)
@pytest.mark.parity("G3", "G4", "G5", "G6", "C9")
def test_gradients_under_options(options, tmp_path):
    agree_in_training(pair("GPT2LMHeadModel", tmp_path, **options), input_ids=ids((2, 6)), labels=_labels((2, 6)))


@pytest.mark.parity("C6")
def test_gradients_under_a_head_mask(language):
    mask = np.array([1.0, 0.0, 0.5, 1.0], np.float32)
    agree_in_training(language, input_ids=ids((2, 6)), labels=_labels((2, 6)), head_mask=mask)


@pytest.mark.parity("G13")
def test_both_losses_of_the_double_heads_with_choices(choices):
    inputs = {"input_ids": ids((2, 3, 6)), "mc_token_ids": np.array([[5, 0, 2], [1, 3, 5]])}
    labels = {"labels": _labels((2, 3, 6)), "mc_labels": np.array([2, 0])}
    agree_in_training(choices, ("loss", "mc_loss"), **inputs, **labels)


@pytest.mark.parity("G13")
def test_each_loss_comes_alone_too(choices):
    inputs = {"input_ids": ids((2, 3, 6))}
    labels = {"labels": _labels((2, 3, 6)), "mc_labels": np.array([2, 0])}
    for name, loss in (("labels", "loss"), ("mc_labels", "mc_loss")):
        got, expected = (run(choices, **inputs, **{name: labels[name]}) for run in (actual_output, reference_output))
        assert list(got.keys()) == list(expected.keys())
        close(got[loss], expected[loss], loss)


@pytest.mark.parity("C14")
def test_single_label_classification(tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, num_labels=3)
    agree_in_training(both, input_ids=ids((4, 6)), labels=np.array([2, 0, 1, -100]))


@pytest.mark.parity("C14")
def test_regression_on_one_label_is_squeezed(tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, num_labels=1)
    agree_in_training(both, input_ids=ids((3, 6)), labels=numbers((3, 1)))
    for labels in (numbers((3,)), numbers((3, 1))):
        close(
            *(run(both, input_ids=ids((3, 6)), labels=labels).loss for run in (actual_output, reference_output)), "loss"
        )


@pytest.mark.parity("C14")
def test_float_labels_mean_several_labels(tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, num_labels=3)
    labels = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.25]], np.float32)
    agree_in_training(both, input_ids=ids((2, 6)), labels=labels)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("regression", numbers((2, 3))),
        ("single_label_classification", np.array([1, 2])),
        ("multi_label_classification", np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], np.float32)),
    ],
)
@pytest.mark.parity("C14")
def test_problem_type_of_the_config_decides(problem, labels, tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, num_labels=3, problem_type=problem)
    got, expected = (run(both, input_ids=ids((2, 6)), labels=labels) for run in (actual_output, reference_output))
    close(got.loss, expected.loss, "loss")


@pytest.mark.parity("C14")
def test_labels_that_do_not_fit_the_problem_type_are_refused(tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, num_labels=3, problem_type="single_label_classification")
    with pytest.raises(ValueError, match="single_label_classification needs integer labels"):
        both.model.apply({"params": both.params}, ids((2, 6)), labels=numbers((2,)))


@pytest.mark.parity("C14")
def test_token_labels_are_not_shifted(tmp_path):
    both = pair("GPT2ForTokenClassification", tmp_path, num_labels=5)
    labels = ids((2, 6), 3, low=0, high=5)
    labels[1, 4:] = -100
    agree_in_training(both, input_ids=ids((2, 6)), labels=labels)


@pytest.mark.parity("C15")
def test_span_positions_are_clamped_and_the_end_is_ignored(tmp_path):
    both = pair("GPT2ForQuestionAnswering", tmp_path)
    positions = {"start_positions": np.array([1, -3, 6, 2]), "end_positions": np.array([4, 5, 99, 3])}
    agree_in_training(both, input_ids=ids((4, 6)), **positions)
    column = {name: value[:, None] for name, value in positions.items()}
    close(*(run(both, input_ids=ids((4, 6)), **column).loss for run in (actual_output, reference_output)), "loss")


@pytest.mark.parity("C15")
def test_padding_enters_the_span_loss(tmp_path):
    both = pair("GPT2ForQuestionAnswering", tmp_path)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    positions = {"start_positions": np.array([1, 2]), "end_positions": np.array([3, 5])}
    agree_in_training(both, input_ids=ids((2, 6)), attention_mask=mask, **positions)
