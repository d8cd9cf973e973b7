"""Selection of the class of a checkpoint: by its config, by name, by auto class (docs/parity.md, C17)."""

import json

import pytest
from support.tiny import tiny
from transformers.models.auto import modeling_auto

import jaxmodels as jm

AUTO = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForPreTraining": modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    "AutoModelWithLMHead": modeling_auto.MODEL_WITH_LM_HEAD_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForMultipleChoice": modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "AutoModelForNextSentencePrediction": modeling_auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


FAMILIES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neo": "GPTNeoForCausalLM",
    "dpr": "DPRQuestionEncoder",
    "roberta-prelayernorm": "RobertaPreLayerNormForMaskedLM",
    "bert": "BertForPreTraining",
    "roberta": "RobertaForMaskedLM",
    "led": "LEDForConditionalGeneration",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One saved model for each model type."""
    paths = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, name in FAMILIES.items():
        jm.save(paths[family], *tiny(name))
    return paths


@pytest.fixture(scope="module")
def folder(folders):
    return folders["gpt2"]


@pytest.mark.filterwarnings("ignore:.*(initialised|unused)")
@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parity("C17")
def test_auto_class_selects_the_reference_class(family, auto, folders):
    if family in AUTO[auto]:
        assert type(jm.load(folders[family], cls=auto)[0]).__name__ == AUTO[auto][family]
    else:
        with pytest.raises(ValueError, match=f"{auto} has no class for '{family}'"):
            jm.load(folders[family], cls=auto)


@pytest.mark.parity("C17")
def test_class_named_by_the_config(folder):
    assert type(jm.load(folder)[0]) is jm.GPT2LMHeadModel


@pytest.mark.parity("C17")
def test_base_model_if_the_config_names_no_class(tmp_path):
    jm.save(tmp_path, *tiny("GPT2LMHeadModel"))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": None}))
    assert type(jm.load(tmp_path)[0]) is jm.GPT2Model


@pytest.mark.parametrize("choice", ["GPT2Model", jm.GPT2Model])
@pytest.mark.parity("C17")
def test_class_by_name_and_by_type(choice, folder):
    assert type(jm.load(folder, cls=choice)[0]) is jm.GPT2Model


@pytest.mark.parity("C17")
def test_unknown_class_is_rejected_with_known_names(folder):
    with pytest.raises(ValueError, match="no class 'GPT2ForDancing'; .*there are .*GPT2ForQuestionAnswering"):
        jm.load(folder, cls="GPT2ForDancing")


@pytest.mark.parity("C17")
def test_auto_class_without_the_model_type_is_rejected(folder):
    assert "gpt2" not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        jm.load(folder, cls="AutoModelForMaskedLM")


def test_model_rejects_other_configs():
    with pytest.raises(TypeError, match="GPT2LMHeadModel takes a GPT2Config"):
        jm.GPT2LMHeadModel({"n_layer": 2})
