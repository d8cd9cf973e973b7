"""Llama against the reference: outputs, losses, gradients, scaled positions, cache, generation, weights and configs."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import agree, agree_in_training, as_torch, compare, pair
from support.tiny import sizes, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.parameters import flatten

CLASSES = ("LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForTokenClassification")
CLASSES += ("LlamaForQuestionAnswering",)
LENGTH = 9
# Three pairs of features; texts are longer and shorter than the original and the scaled lengths.
SCALINGS = {
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "yarn with options": {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 3.0, "beta_slow": 0.5}
    | {"truncate": False},
    "yarn with a factor on the attention": {"factor": 4.0, "attention_factor": 1.3},
    "longrope": {"factor": 4.0, "short_factor": [1.0, 1.1, 1.3], "long_factor": [2.0, 3.0, 5.0]},
    "llama3": {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


def scaled(name: str, **others) -> dict:
    return {"rope_scaling": {"rope_type": name.split()[0], **SCALINGS[name]}, **others}


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return pair("LlamaForCausalLM", tmp_path_factory.mktemp("language"))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("LL1", "LL2", "LL6")
def test_each_class_gives_every_logit_state_and_attention(name, tmp_path):
    agree(pair(name, tmp_path, num_labels=3), input_ids=ids((2, LENGTH)), **EVERYTHING)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parity("LL1")
def test_queries_share_keys(heads, tmp_path):
    both = pair("LlamaForCausalLM", tmp_path, num_key_value_heads=heads, attention_bias=True, mlp_bias=True)
    assert both.model.init_cache(1, 5).layers[0].past.key.shape == (1, heads, 6, 5)
    mask = np.array([[1] * LENGTH, [0] * 3 + [1] * 6])
    agree(both, input_ids=ids((2, LENGTH)), attention_mask=mask, only=mask.astype(bool), **EVERYTHING)


@pytest.mark.parametrize(
    ("name", "positions"), [*((name, 6) for name in SCALINGS), *((name, 24) for name in ("dynamic", "longrope"))]
)
@pytest.mark.parity("LL4")
def test_scaled_positions(name, positions, tmp_path):
    both = pair("LlamaModel", tmp_path, **scaled(name, max_position_embeddings=positions, rope_theta=300.0))
    agree(both, input_ids=ids((2, LENGTH)), **EVERYTHING)


@pytest.mark.parity("LL3")
def test_positions_may_be_given_and_have_no_limit(language):
    # Without a mask the reference takes positions that do not follow each other for packed texts.
    inputs = {"attention_mask": np.ones((2, LENGTH), int), "position_ids": ids((2, LENGTH), 3, 0, 900)}
    agree(language, input_ids=ids((2, LENGTH)), **inputs, **EVERYTHING)
    agree(language, inputs_embeds=numbers((2, 40, 32)), **EVERYTHING)


@pytest.mark.parity("LL1", "LL2", "LL5")
def test_language_loss_and_its_gradients(language):
    mask = np.array([[1] * 7 + [0] * 2, [1] * LENGTH])
    tokens = ids((2, LENGTH))
    tokens[1, 2] = 0  # a pad among the tokens: its embedding gets no gradient
    labels = np.where(mask, ids((2, LENGTH), 7), -100)
    agree_in_training(language, input_ids=tokens, attention_mask=mask, labels=labels)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("SequenceClassification", {"labels": np.array([2, 0, 1])}),
        ("TokenClassification", {"labels": ids((3, LENGTH), 3, low=0, high=3)}),
        ("QuestionAnswering", {"start_positions": np.array([1, 4, 99]), "end_positions": np.array([4, 8, 2])}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parity("LL6")
def test_losses_of_the_heads_and_their_gradients(head, labels, tmp_path):
    both = pair(f"LlamaFor{head}", tmp_path, num_labels=3)
    agree_in_training(both, input_ids=ids((3, LENGTH)), attention_mask=np.ones((3, LENGTH), int), **labels)


@pytest.mark.parametrize("scaling", [None, "dynamic", "longrope"])
@pytest.mark.parity("LL1", "LL4")
def test_a_cache_step_by_step(scaling, tmp_path):
    options = {} if scaling is None else scaled(scaling, max_position_embeddings=6)
    both = pair("LlamaForCausalLM", tmp_path, **options)
    tokens, past = ids((2, LENGTH)), None
    cache = both.model.init_cache(2, LENGTH)
    step = jax.jit(lambda cache, part: both.model.apply({"params": both.params}, part, cache=cache))
    for part in np.split(tokens, [4, 5, 6, 7], axis=1):
        out = step(cache, part)
        cache = out.cache
        expected = both.reference(as_torch(part), past_key_values=past, use_cache=True)
        past = expected.past_key_values
        compare({"logits": out.logits}, {"logits": expected.logits})


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parity("LL1", "LL6")
def test_left_padded_generation(language, beams):
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    prompt = np.where(mask, ids((3, 6)), 0)
    options = {"max_new_tokens": 10, "do_sample": False, "num_beams": beams, "early_stopping": beams > 1}
    options |= {"pad_token_id": 0, "eos_token_id": 66}
    expected = language.reference.generate(as_torch(prompt), attention_mask=as_torch(mask), **options)
    got = jm.generate(language.model, language.params, prompt, attention_mask=mask, **options)
    np.testing.assert_array_equal(got.sequences, expected)


def test_an_int8_cache_holds_nearly_the_same_keys():
    model, params = tiny("LlamaForCausalLM")
    tokens = ids((2, LENGTH))

    @partial(jax.jit, static_argnums=0)
    def last_logits(dtype, params):
        cache = model.apply({"params": params}, tokens[:, :-1], cache=model.init_cache(2, LENGTH, dtype)).cache
        return model.apply({"params": params}, tokens[:, -1:], cache=cache).logits

    expected, got = last_logits("float32", params), last_logits("int8", params)
    assert 0 < np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parity("LL2", "LL5")
def test_saved_weights_are_the_reference_s(tied, tmp_path):
    both = pair("LlamaForCausalLM", tmp_path, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True)
    jm.save(tmp_path / "saved", both.model, both.params)
    saved, reference = load_file(tmp_path / "saved" / "model.safetensors"), both.reference.state_dict()
    assert reference.keys() - saved.keys() == ({"lm_head.weight"} if tied else set())
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, reference[name], err_msg=name)
    _, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parity("LL2")
def test_only_the_biases_of_the_config_exist():
    def biases(**config):
        params = flatten(tiny("LlamaModel", **config)[1])
        return {path.rsplit("/", 2)[-2] for path in params if path.endswith("/bias")}

    assert biases() == set()
    assert biases(attention_bias=True) == {"q", "kv", "out"}
    assert biases(mlp_bias=True) == {"gate_up", "down"}


@pytest.mark.parametrize("biases", [(True, True, True, False), (True, False, True, True)], ids=["Qwen2", "Whisper"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_each_projection_may_lack_a_bias(biases, kv_heads):
    init = jax.nn.initializers.normal(1.0)
    attention = Attention(4, 6, init, init, kv_heads=kv_heads, use_bias=biases)
    x = numbers((2, 5, 32))
    shapes = jax.eval_shape(attention.init, jax.random.key(0), x, AttentionInputs())["params"]
    shapes = jax.tree.map(lambda leaf: leaf.value, shapes, is_leaf=lambda leaf: hasattr(leaf, "names"))
    params = jax.tree.map(lambda leaf: numbers(leaf.shape), shapes)
    got = attention.apply({"params": params}, x, AttentionInputs())[0]

    if kv_heads is None:
        kernels = np.moveaxis(params["qkv"]["kernel"], 1, 0)
        stored = list(params["qkv"]["bias"])
    else:
        kernels = [params["q"]["kernel"], *np.moveaxis(params["kv"]["kernel"], 1, 0)]
        stored = [params["q"]["bias"], *params["kv"]["bias"]]
    stored = iter(stored)
    query, key, value = (
        torch.from_numpy(np.einsum("btd,dhk->bhtk", x, kernel) + (next(stored)[:, None] if biased else 0.0))
        for kernel, biased in zip(kernels, biases[:3], strict=True)
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    expected = np.einsum("bhtk,hkd->btd", out, params["out"]["kernel"]) + params["out"].get("bias", 0.0)
    assert next(stored, None) is None and ("bias" in params["out"]) == biases[3]
    close(got, expected, "output")


def test_buffers_in_files_of_older_releases_are_ignored(language, tmp_path):
    state = {**language.reference.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    language.reference.config.save_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jm.load(tmp_path, cls="LlamaForCausalLM")[1], language.params)


@pytest.mark.parity("LL5")
def test_defaults_are_those_of_the_reference():
    got, expected = jm.LlamaConfig().to_dict(), transformers.LlamaConfig().to_dict()
    kept = expected.keys() & got.keys() - {"transformers_version", "architectures", "torch_dtype"}
    assert {"num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "tie_word_embeddings"} <= kept
    assert all(got[key] == expected[key] for key in kept)


@pytest.mark.parity("LL4")
def test_a_file_of_release_5_has_theta_and_scaling_in_one_mapping(tmp_path):
    values = {"model_type": "llama", **sizes("Llama"), "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = jm.LlamaConfig.from_pretrained(tmp_path)
    assert (config.rope_theta, config.rotary.rope_type, dict(config.extra)) == (5e5, "default", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
        ({"head_dim": 5}, "an even head_dim, got 5"),
        ({"rope_scaling": {"rope_type": "lineal", "factor": 2.0}}, "no type 'lineal'.*linear"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'linear' has factor; got none"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be a positive number, got '2'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "power": 1}}, "'linear' has factor; got"),
        ({"rope_scaling": {**scaled("longrope")["rope_scaling"], "long_factor": [1.0]}}, "long_factor must be 3 pos"),
        ({"rope_theta": 0.5}, "rope_theta must be"),
        ({"pruned_heads": {0: [1]}}, "no cross attention and no pruned heads"),
    ],
    ids=str,
)
@pytest.mark.parity("LL4", "LL7")
def test_configs_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jm.LlamaConfig(**{**sizes("Llama"), **options})


@pytest.mark.parity("LL7")
def test_token_types_are_refused(language):
    with pytest.raises(ValueError, match="LlamaModel has no token types"):
        language.model.apply({"params": language.params}, ids((1, 4)), token_type_ids=ids((1, 4), high=2))


@pytest.mark.parametrize("rules", [sharding.FSDP_TP, {**sharding.FSDP_TP, "kv_heads": None}], ids=["split", "whole"])
@pytest.mark.parity("LL1")
def test_sharded_equals_unsharded(rules):
    model, params = tiny("LlamaForCausalLM")
    tokens, mask = ids((8, LENGTH)), np.ones((8, LENGTH), int)
    mask[3, 6:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": np.where(mask, tokens, -100)}
    run = jax.jit(jax.value_and_grad(lambda params, batch: model.apply({"params": params}, **batch).loss))
    expected, gradients = run(params, batch)
    mesh = sharding.make_mesh({"data": 4, "model": 2} if rules["kv_heads"] else {"data": 2, "model": 4})
    placed = jax.device_put(params, sharding.shardings(model, mesh, rules))
    with sharding.use(mesh, rules):
        got, sharded = jax.jit(run.__wrapped__)(placed, jax.device_put(batch, sharding.batch_sharding(mesh, rules)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(sharded)[path], leaf, rtol=1e-4, atol=5e-6, err_msg=path)
