"""`num_labels`, `id2label`, `label2id` and `problem_type` (docs/parity.md, C2)."""

import pytest
import transformers

import jaxmodels as jm


@pytest.mark.parity("C2")
def test_default_is_two_labels_with_made_up_names():
    config = jm.GPT2Config()
    assert config.num_labels == 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parity("C2")
def test_number_of_labels_makes_names(count):
    ours, theirs = jm.GPT2Config(num_labels=count), transformers.GPT2Config(num_labels=count)
    assert (ours.num_labels, ours.id2label, ours.label2id) == (count, theirs.id2label, theirs.label2id)


@pytest.mark.parity("C2")
def test_names_make_the_number_and_keys_become_ints():
    names = {"0": "cat", "1": "dog", "2": "eel"}
    ours = jm.GPT2Config(id2label=names, label2id={"cat": 0, "dog": 1, "eel": 2})
    theirs = transformers.GPT2Config(id2label=names, label2id={"cat": 0, "dog": 1, "eel": 2})
    assert ours.num_labels == theirs.num_labels == 3
    assert ours.id2label == theirs.id2label and ours.label2id == theirs.label2id


@pytest.mark.parity("C2")
def test_names_win_over_a_number_that_disagrees():
    names = {0: "cat", 1: "dog", 2: "eel"}
    assert jm.GPT2Config(id2label=names, num_labels=7).num_labels == 3
    assert transformers.GPT2Config(id2label=names, num_labels=7).num_labels == 3


@pytest.mark.parity("C2")
def test_replacing_the_number_or_the_names_keeps_all_three_in_step():
    config = jm.GPT2Config(id2label={0: "cat", 1: "dog"}).replace(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config = config.replace(id2label={0: "cat"})
    assert config.num_labels == 1 and config.label2id == {"cat": 0}
    assert config.replace(n_layer=3).id2label == {0: "cat"}


@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification", "multi_label_classification"])
@pytest.mark.parity("C2")
def test_known_problem_types_are_taken(problem):
    assert jm.GPT2Config(problem_type=problem).problem_type == problem


@pytest.mark.parity("C2")
def test_unknown_problem_type_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="regression.*'ranking'"):
        jm.GPT2Config(problem_type="ranking")
