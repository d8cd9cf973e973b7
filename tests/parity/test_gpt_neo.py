"""GPT-Neo against the reference: outputs, losses, gradients, cache and generation, and what differs from GPT-2."""

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from support.arrays import EVERYTHING, ids, numbers
from support.reference import actual_output, agree, agree_in_training, as_torch, compare, pair, reference_output
from support.tiny import sizes, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten

# A layer that sees all, three that see 3 tokens of 9, and one that sees all.
LAYERS = {"num_layers": 5, "attention_types": [[["global", "local"], 1], [["local"], 2], [["global"], 1]]}
CLASSES = ("GPTNeoModel", "GPTNeoForCausalLM", "GPTNeoForSequenceClassification", "GPTNeoForTokenClassification")
CLASSES += ("GPTNeoForQuestionAnswering",)
LENGTH = 9


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return pair("GPTNeoForCausalLM", tmp_path_factory.mktemp("language"), **LAYERS)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("GN1", "GN2", "GN6")
def test_each_class_gives_every_logit_state_and_attention(name, tmp_path):
    agree(pair(name, tmp_path, num_labels=3), input_ids=ids((2, LENGTH)), **EVERYTHING)


@pytest.mark.parity("GN1", "GN2", "GN3")
def test_several_groups_of_layers(language):
    assert language.model.config.attention_layers == ("global", "local", "local", "local", "global")
    assert language.model.config.attention_layers == tuple(language.reference.config.attention_layers)
    agree(language, input_ids=ids((2, LENGTH)), **EVERYTHING)


@pytest.mark.parity("GN2")
def test_a_query_sees_the_window_with_its_own_token(language):
    out = language.model.apply({"params": language.params}, ids((1, LENGTH)), output_attentions=True)
    seen = (np.asarray(out.attentions) > 0).sum(axis=-1)
    np.testing.assert_array_equal(seen[1], np.broadcast_to(np.minimum(np.arange(LENGTH) + 1, 3), (1, 4, LENGTH)))
    np.testing.assert_array_equal(seen[4], np.broadcast_to(np.arange(LENGTH) + 1, (1, 4, LENGTH)))


@pytest.mark.parametrize(
    "rows", [[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1, 0, 1, 1]]
)
@pytest.mark.parity("GN2")
def test_padding_counts_in_the_window(language, rows):
    mask = np.array([rows, [1] * LENGTH])
    agree(language, input_ids=ids((2, LENGTH)), attention_mask=mask, only=mask.astype(bool), **EVERYTHING)


@pytest.mark.parity("GN2")
def test_a_pad_whose_whole_window_is_padding_sees_nothing(language):
    mask = np.array([[1] * 5 + [0] * 4])
    attentions = actual_output(
        language, input_ids=ids((1, LENGTH)), attention_mask=mask, output_attentions=True
    ).attentions
    np.testing.assert_allclose(attentions[1].sum(axis=-1)[0, 0], [1] * 7 + [0] * 2, rtol=1e-6)
    expected = reference_output(
        language, input_ids=ids((1, LENGTH)), attention_mask=mask, output_attentions=True
    ).attentions
    assert (expected[1][0, 0, 7, :5] > 0.1).all()  # outside the window


@pytest.mark.parity("GN6")
def test_token_types_positions_and_head_masks_are_read_as_in_gpt2(language):
    head_mask = np.random.default_rng(2).choice([0.0, 1.0, 0.5], (5, 4)).astype(np.float32)
    inputs = {"token_type_ids": ids((2, LENGTH), 1), "position_ids": ids((2, LENGTH), 3, 0, 24)}
    agree(language, input_ids=ids((2, LENGTH)), **inputs, head_mask=head_mask, **EVERYTHING)
    agree(language, inputs_embeds=numbers((2, LENGTH, 32)), **EVERYTHING)


@pytest.mark.parity("GN1", "GN2", "GN4")
def test_language_loss_and_its_gradients(language):
    mask = np.array([[1] * 7 + [0] * 2, [1] * LENGTH])
    labels = np.where(mask, ids((2, LENGTH), 7), -100)
    agree_in_training(language, input_ids=ids((2, LENGTH)), attention_mask=mask, labels=labels)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("SequenceClassification", {"labels": np.array([2, 0, 1])}),
        ("TokenClassification", {"labels": ids((3, LENGTH), 3, low=0, high=3)}),
        ("QuestionAnswering", {"start_positions": np.array([1, 4, 99]), "end_positions": np.array([4, 8, 2])}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parity("GN6")
def test_losses_of_the_heads_and_their_gradients(head, labels, tmp_path):
    tokens, mask = ids((3, LENGTH)), np.ones((3, LENGTH), int)
    tokens[1, 7:] = mask[1, 7:] = 0  # shorter than the window: else the states of the last pad differ
    both = pair(f"GPTNeoFor{head}", tmp_path, num_labels=3)
    agree_in_training(both, input_ids=tokens, attention_mask=mask, **labels)


@pytest.mark.parity("GN2")
def test_a_cache_step_by_step(language):
    tokens, seen, past = ids((2, LENGTH)), 0, None
    cache = language.model.init_cache(2, LENGTH)
    step = jax.jit(lambda cache, part: language.model.apply({"params": language.params}, part, cache=cache))
    for part in np.split(tokens, [4, 5, 6, 7], axis=1):
        out = step(cache, part)
        seen, cache = seen + part.shape[1], out.cache
        expected = language.reference(as_torch(part), past_key_values=past, use_cache=True)
        past = expected.past_key_values
        compare({"logits": out.logits}, {"logits": expected.logits})
    assert seen == int(cache.length) == LENGTH


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parity("GN2", "GN6")
def test_left_padded_generation(language, beams):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    prompt = np.where(mask, ids((3, 6)), 0)
    options = {"max_new_tokens": 10, "do_sample": False, "num_beams": beams, "early_stopping": beams > 1}
    options |= {"pad_token_id": 0, "eos_token_id": 66}
    expected = language.reference.generate(as_torch(prompt), attention_mask=as_torch(mask), **options)
    got = jm.generate(language.model, language.params, prompt, attention_mask=mask, **options)
    np.testing.assert_array_equal(got.sequences, expected)


@pytest.mark.parity("GN4")
def test_weights_are_stored_out_by_in_and_only_the_output_has_a_bias(language, tmp_path):
    jm.save(tmp_path, language.model, language.params)
    saved, reference = load_file(tmp_path / "model.safetensors"), language.reference.state_dict()
    assert reference.keys() - saved.keys() == {"lm_head.weight"}  # tied
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, reference[name], err_msg=name)
    attention = language.params["transformer"]["h"]["layers"]["attention"]
    assert {name: set(part) for name, part in attention.items()} == {"qkv": {"kernel"}, "out": {"kernel", "bias"}}
    query = reference["transformer.h.1.attn.attention.q_proj.weight"]
    np.testing.assert_array_equal(attention["qkv"]["kernel"][1, :, 0].reshape(32, 32), query.T)
    model, report = transformers.GPTNeoForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and torch.equal(model.lm_head.weight, reference["lm_head.weight"])


def test_masks_in_files_of_older_releases_are_ignored(language, tmp_path):
    state = {**language.reference.state_dict(), "transformer.h.0.attn.attention.bias": torch.ones(1, 1, 24, 24).bool()}
    state["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    torch.save(state, tmp_path / "pytorch_model.bin")
    language.reference.config.save_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jm.load(tmp_path, cls="GPTNeoForCausalLM")[1], language.params)


@pytest.mark.parity("GN5")
def test_defaults_are_those_of_the_reference():
    mine, reference = jm.GPTNeoConfig(), transformers.GPTNeoConfig()
    assert mine.attention_layers == tuple(reference.attention_layers)
    got, expected = mine.to_dict(), reference.to_dict()
    kept = expected.keys() & got.keys() - {"transformers_version", "architectures", "torch_dtype"}
    assert {"window_size", "resid_dropout", "classifier_dropout", "attention_types", "intermediate_size"} <= kept
    assert all(got[key] == expected[key] for key in kept)


@pytest.mark.parity("GN5")
def test_every_kernel_starts_with_the_same_width():
    options = {"hidden_size": 64, "num_layers": 8, "attention_types": [[["global", "local"], 4]]}
    fresh = flatten(jm.init(tiny("GPTNeoModel", **options, initializer_range=0.05)[0], jax.random.key(0)))
    kernels = {path: leaf for path, leaf in fresh.items() if path.endswith(("kernel", "embedding"))}
    assert len(kernels) == 6
    for path, leaf in kernels.items():
        assert abs(np.std(leaf) / 0.05 - 1) < 0.05, path


@pytest.mark.parity("GN3")
def test_attention_layers_of_a_file_take_precedence(tmp_path):
    layers = ["local", "global"]
    reference = transformers.GPTNeoConfig(**sizes("GPTNeo"), attention_layers=layers)
    assert reference.attention_layers == layers and reference.attention_types == [[["global", "local"], 1]]
    reference.save_pretrained(tmp_path)
    config = jm.GPTNeoConfig.from_pretrained(tmp_path)
    assert config.attention_layers == tuple(layers) and "attention_layers" not in config.extra
    config.save_pretrained(tmp_path)
    assert transformers.GPTNeoConfig.from_pretrained(tmp_path).attention_layers == layers
    other = jm.GPTNeoConfig.from_pretrained(tmp_path, attention_types=[[["local"], 2]])
    assert other.attention_layers == ("local", "local")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 3}, "attention_types describe 2 layers, but num_layers=3"),
        ({"attention_types": [[["global", "sparse"], 1]]}, "one of 'global', 'local'"),
        ({"attention_types": [["global", "local"]]}, "attention_types must be"),
        ({"attention_types": [[["global", "local"]]]}, "groups"),
        ({"attention_types": [[1, ["global", "local"]]]}, "groups"),
        ({"window_size": 0}, "window_size must be a positive int"),
    ],
    ids=str,
)
@pytest.mark.parity("GN3")
def test_layers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jm.GPTNeoConfig(**{**sizes("GPTNeo"), **options})


@pytest.mark.parametrize("options", [{"add_cross_attention": True}, {"pruned_heads": {0: [1]}}], ids=str)
@pytest.mark.parity("GN8")
def test_cross_attention_and_pruned_heads_are_refused(options):
    with pytest.raises(ValueError, match="no cross attention and no pruned heads"):
        jm.GPTNeoConfig(**options)


@pytest.mark.parametrize("rate", [0.1, 0.6])
@pytest.mark.parity("GN5")
def test_the_token_classifier_has_a_dropout_rate_of_its_own(rate):
    model, params = tiny("GPTNeoForTokenClassification", classifier_dropout=rate, num_labels=32)
    params["classifier"] = {"kernel": jax.numpy.eye(32), "bias": jax.numpy.zeros(32)}
    apply = jax.jit(lambda key: model.apply({"params": params}, ids((64, 16)), rngs={"dropout": key}).logits)
    assert abs((np.asarray(apply(jax.random.key(0))) == 0).mean() - rate) < 0.015


@pytest.mark.parametrize("place", ["embed_dropout", "resid_dropout", "attention_dropout"])
@pytest.mark.parity("GN5")
def test_each_dropout_rate_has_an_effect(place):
    model, params = tiny("GPTNeoModel", **{place: 0.5})
    still, noisy = (
        jax.jit(lambda keys: model.apply({"params": params}, ids((2, 6)), rngs=keys).last_hidden_state)(keys)
        for keys in ({}, {"dropout": jax.random.key(0)})
    )
    assert np.abs(np.asarray(noisy - still)).max() > 0.05


def test_sharded_equals_unsharded():
    model, params = tiny("GPTNeoForCausalLM", **LAYERS)
    tokens, mask = ids((8, LENGTH)), np.ones((8, LENGTH), int)
    mask[3, 6:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": np.where(mask, tokens, -100)}
    run = jax.jit(jax.value_and_grad(lambda params, batch: model.apply({"params": params}, **batch).loss))
    expected, gradients = run(params, batch)
    mesh, rules = sharding.make_mesh({"data": 2, "model": 4}), sharding.FSDP_TP
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    kernel = placed["transformer"]["h"]["layers"]["attention"]["qkv"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(5, 16, 3, 1, 8)}
    with sharding.use(mesh, rules):
        got, sharded = jax.jit(run.__wrapped__)(placed, jax.device_put(batch, sharding.batch_sharding(mesh, rules)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(sharded)[path], leaf, rtol=1e-4, atol=5e-6, err_msg=path)
