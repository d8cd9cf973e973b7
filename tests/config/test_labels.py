"""`num_labels`, `id2label`, `label2id` and `problem_type` (docs/parity.md, C2)."""

import pytest
import transformers

import jaxmodels as jm


@pytest.mark.parity("C2")
def test_default_labels():
    config = jm.GPT2Config()
    assert config.num_labels == 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parity("C2")
def test_num_labels_sets_the_names(count):
    config, reference = jm.GPT2Config(num_labels=count), transformers.GPT2Config(num_labels=count)
    assert (config.num_labels, config.id2label, config.label2id) == (count, reference.id2label, reference.label2id)


@pytest.mark.parity("C2")
def test_id2label_sets_the_number_and_has_int_keys():
    names = {"0": "cat", "1": "dog", "2": "eel"}
    config = jm.GPT2Config(id2label=names, label2id={"cat": 0, "dog": 1, "eel": 2})
    reference = transformers.GPT2Config(id2label=names, label2id={"cat": 0, "dog": 1, "eel": 2})
    assert config.num_labels == reference.num_labels == 3
    assert config.id2label == reference.id2label and config.label2id == reference.label2id


@pytest.mark.parity("C2")
def test_id2label_takes_precedence_over_num_labels():
    names = {0: "cat", 1: "dog", 2: "eel"}
    assert jm.GPT2Config(id2label=names, num_labels=7).num_labels == 3
    assert transformers.GPT2Config(id2label=names, num_labels=7).num_labels == 3


@pytest.mark.parity("C2")
def test_replace_keeps_labels_consistent():
    config = jm.GPT2Config(id2label={0: "cat", 1: "dog"}).replace(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config = config.replace(id2label={0: "cat"})
    assert config.num_labels == 1 and config.label2id == {"cat": 0}
    assert config.replace(n_layer=3).id2label == {0: "cat"}


@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification", "multi_label_classification"])
@pytest.mark.parity("C2")
def test_known_problem_types_are_accepted(problem):
    assert jm.GPT2Config(problem_type=problem).problem_type == problem


@pytest.mark.parity("C2")
def test_unknown_problem_type_is_rejected():
    with pytest.raises(ValueError, match="regression.*'ranking'"):
        jm.GPT2Config(problem_type="ranking")
