"""Base checkpoints in classes with heads and vice versa; missing heads are initialised (docs/parity.md, C16)."""

import warnings

import jax
import numpy as np
import pytest
import torch
from support.reference import pair, torch_model
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

HEADS = {
    "GPT2ForSequenceClassification": {"score/kernel"},
    "GPT2ForTokenClassification": {"classifier/kernel", "classifier/bias"},
    "GPT2ForQuestionAnswering": {"qa_outputs/kernel", "qa_outputs/bias"},
    "GPT2DoubleHeadsModel": {"multiple_choice_head/summary/kernel", "multiple_choice_head/summary/bias"},
}


def loaded(folder, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, params = jm.load(folder, **options)
    return model, params, [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair("GPT2Model", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parity("C16")
def test_missing_head_is_initialised_with_one_warning(name, base):
    _, params, messages = loaded(base.folder, cls=name)
    assert len(messages) == 1 and "initialised" in messages[0] and name in messages[0]
    flat = flatten(params)
    assert {path for path in flat if not path.startswith("transformer/")} == HEADS[name]
    assert all(path in messages[0] for path in HEADS[name]) and "transformer/" not in messages[0]
    for path, leaf in flatten(base.params).items():
        np.testing.assert_array_equal(flat[f"transformer/{path}"], leaf, err_msg=path)
    for path in HEADS[name]:
        assert np.isfinite(flat[path]).all() and np.any(flat[path]) != path.endswith("bias"), path


@pytest.mark.parity("C16")
def test_tied_head_needs_only_a_base_checkpoint(base):
    assert loaded(base.folder, cls="GPT2LMHeadModel")[2] == []


@pytest.mark.parity("C16")
def test_untied_language_head_is_initialised(base):
    _, params, messages = loaded(base.folder, cls="GPT2LMHeadModel", tie_word_embeddings=False)
    assert len(messages) == 1 and "lm_head/kernel" in messages[0]
    assert params["lm_head"]["kernel"].shape == (32, 67)


@pytest.mark.parity("C16")
def test_initialised_head_depends_on_the_key(base):
    one, same, other = (
        loaded(base.folder, cls="GPT2ForSequenceClassification", key=jax.random.key(seed))[1]["score"]["kernel"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parity("C16")
def test_language_model_file_loads_into_the_base_model_without_warning(tmp_path):
    model, params = tiny("GPT2LMHeadModel")
    jm.save(tmp_path, model, params)
    base, taken, messages = loaded(tmp_path, cls="GPT2Model")
    assert isinstance(base, jm.GPT2Model) and messages == []
    assert jax.tree.all(jax.tree.map(np.array_equal, taken, params["transformer"]))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parity("C16")
def test_unused_head_is_reported_in_one_warning(name, tmp_path):
    model, params = tiny(name)
    jm.save(tmp_path, model, params)
    _, taken, messages = loaded(tmp_path, cls="GPT2Model")
    assert len(messages) == 1 and "unused" in messages[0]
    assert {path.split("/")[0] for path in HEADS[name]} <= {word.split(".")[0] for word in messages[0].split()}
    assert jax.tree.all(jax.tree.map(np.array_equal, taken, params["transformer"]))


@pytest.mark.parity("C16")
def test_unused_untied_head_is_reported(tmp_path):
    jm.save(tmp_path, *tiny("GPT2LMHeadModel", tie_word_embeddings=False))
    messages = loaded(tmp_path, cls="GPT2Model")[2]
    assert len(messages) == 1 and "lm_head.weight" in messages[0]


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parity("C16")
def test_names_with_and_without_prefix_and_with_causal_buffers(prefix, tmp_path):
    """gpt2 on the Hub has names without prefix, and causal masks as buffers."""
    reference = torch_model("GPT2LMHeadModel")
    tensors = {prefix + name: tensor for name, tensor in reference.transformer.state_dict().items()}
    for layer in range(2):
        tensors[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24)
        tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    reference.config.save_pretrained(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for name in ("GPT2Model", "GPT2LMHeadModel"):
        _, params, messages = loaded(tmp_path, cls=name)
        assert messages == []
        table = params.get("transformer", params)["wte"]["embedding"]
        np.testing.assert_array_equal(table, reference.transformer.wte.weight.detach().numpy())


@pytest.mark.parametrize(
    ("name", "kept", "left_out"),
    [
        ("GPT2LMHeadModel", "lm_head.weight", "transformer.wte.weight"),
        (
            "RobertaPreLayerNormForMaskedLM",
            "lm_head.decoder.weight",
            "roberta_prelayernorm.embeddings.word_embeddings.weight",
        ),
        ("RobertaPreLayerNormForMaskedLM", "lm_head.decoder.bias", "lm_head.bias"),
        ("T5ForConditionalGeneration", "lm_head.weight", "shared.weight"),
    ],
)
@pytest.mark.parity("C9")
def test_tied_tensors_are_read_under_either_name(name, kept, left_out, tmp_path):
    reference = torch_model(name)
    tensors = {key: tensor for key, tensor in reference.state_dict().items() if "embed_tokens" not in key}
    reference.config.save_pretrained(tmp_path)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    whole = loaded(tmp_path, cls=name)[1]
    del tensors[left_out]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    _, params, messages = loaded(tmp_path, cls=name)
    assert messages == []
    jax.tree.map(np.testing.assert_array_equal, params, whole)


ROBERTA_HEADS = {
    "MaskedLM": {
        "lm_head/dense/kernel",
        "lm_head/dense/bias",
        "lm_head/norm/scale",
        "lm_head/norm/bias",
        "lm_head/bias",
    },
    "TokenClassification": {"classifier/kernel", "classifier/bias"},
    "MultipleChoice": {"classifier/kernel", "classifier/bias"},
    "QuestionAnswering": {"qa_outputs/kernel", "qa_outputs/bias"},
    "SequenceClassification": {
        f"classifier/{part}/{leaf}" for part in ("dense", "out_proj") for leaf in ("kernel", "bias")
    },
}


@pytest.mark.parametrize("head", ROBERTA_HEADS)
@pytest.mark.parity("C16")
def test_roberta_heads_on_a_base_checkpoint(head, tmp_path):
    name = f"RobertaPreLayerNormFor{head}"
    model, params = tiny("RobertaPreLayerNormModel")
    jm.save(tmp_path, model, params)
    _, taken, messages = loaded(tmp_path, cls=name)
    fresh = {path for path in flatten(taken) if not path.startswith("roberta_prelayernorm/")}
    assert fresh == ROBERTA_HEADS[head]
    assert "initialised" in messages[0] and name in messages[0] and all(path in messages[0] for path in fresh)
    # Multiple choice uses the pooler; the other heads warn that it is unused.
    assert [("pooler" in message and "unused" in message) for message in messages[1:]] == [True] * (
        head != "MultipleChoice"
    )
    for path, leaf in flatten(params).items():
        if head == "MultipleChoice" or not path.startswith("pooler"):
            np.testing.assert_array_equal(flatten(taken)[f"roberta_prelayernorm/{path}"], leaf, err_msg=path)


@pytest.mark.parity("C16")
def test_added_cross_attention_is_initialised_with_a_warning(tmp_path):
    """Loads an encoder checkpoint into the decoder of a sequence-to-sequence model."""
    jm.save(tmp_path, *tiny("RobertaPreLayerNormForMaskedLM"))
    options = {"is_decoder": True, "add_cross_attention": True}
    _, params, messages = loaded(tmp_path, cls="RobertaPreLayerNormForCausalLM", **options)
    assert len(messages) == 1 and "cross_attention/q/kernel" in messages[0] and "cross_attention_norm" in messages[0]
    layers = params["roberta_prelayernorm"]["encoder"]["layers"]
    assert np.isfinite(layers["cross_attention"]["kv"]["kernel"]).all()
