"""Which class a checkpoint becomes: by its config, by name, by auto class (PARITY C17)."""

import json

import pytest
from parity.tiny import tiny
from transformers.models.auto import modeling_auto

import jaxmodels as jm

AUTO = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForPreTraining": modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    "AutoModelWithLMHead": modeling_auto.MODEL_WITH_LM_HEAD_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    jm.save(path, *tiny("GPT2LMHeadModel"))
    return path


@pytest.mark.filterwarnings("ignore:.*initialised")
@pytest.mark.parametrize("auto", AUTO)
def test_C17_auto_class_gives_the_class_of_the_reference(auto, folder):
    assert type(jm.load(folder, cls=auto)[0]).__name__ == AUTO[auto]["gpt2"]


def test_C17_config_names_the_class(folder):
    assert type(jm.load(folder)[0]) is jm.GPT2LMHeadModel


def test_C17_without_a_name_in_the_config_it_is_the_base_model(tmp_path):
    jm.save(tmp_path, *tiny("GPT2LMHeadModel"))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": None}))
    assert type(jm.load(tmp_path)[0]) is jm.GPT2Model


@pytest.mark.parametrize("choice", ["GPT2Model", jm.GPT2Model])
def test_C17_class_by_name_or_itself(choice, folder):
    assert type(jm.load(folder, cls=choice)[0]) is jm.GPT2Model


def test_C17_unknown_class_is_refused_with_the_known_ones(folder):
    with pytest.raises(ValueError, match="no class 'GPT2ForDancing'; there are .*GPT2LMHeadModel"):
        jm.load(folder, cls="GPT2ForDancing")


def test_C17_auto_class_without_this_family_is_refused(folder):
    assert "gpt2" not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        jm.load(folder, cls="AutoModelForMaskedLM")


def test_model_takes_only_its_own_config():
    with pytest.raises(TypeError, match="GPT2LMHeadModel takes a GPT2Config"):
        jm.GPT2LMHeadModel({"n_layer": 2})
