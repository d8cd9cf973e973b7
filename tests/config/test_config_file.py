"""Reading and writing of config.json, compared with transformers (docs/parity.md, C1)."""

import copy
import json
import pickle

import pytest
import transformers

import jaxmodels as jm

# Every key of GPT2Config().to_dict() in transformers 4.37.2 (those of 4.57.6 are tested below).
KEYS_4_37 = """
    _name_or_path activation_function add_cross_attention architectures attn_pdrop bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample early_stopping embd_pdrop encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
    initializer_range is_decoder is_encoder_decoder label2id layer_norm_epsilon length_penalty max_length min_length
    model_type n_embd n_head n_inner n_layer n_positions no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    pruned_heads remove_invalid_values reorder_and_upcast_attn repetition_penalty resid_pdrop return_dict
    return_dict_in_generate scale_attn_by_inverse_layer_idx scale_attn_weights sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype
    torchscript transformers_version typical_p use_bfloat16 use_cache vocab_size
"""

CHANGED = {
    "vocab_size": 99,
    "n_positions": 33,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 2,
    "n_inner": 48,
    "activation_function": "relu",
    "resid_pdrop": 0.2,
    "embd_pdrop": 0.3,
    "attn_pdrop": 0.4,
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.1,
    "summary_type": "mean",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.5,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "reorder_and_upcast_attn": True,
    "bos_token_id": 7,
    "eos_token_id": 8,
    "pad_token_id": 9,
    "add_cross_attention": True,
    "tie_word_embeddings": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "problem_type": "regression",
    "num_labels": 4,
    "pruned_heads": {1: [0]},
    "chunk_size_feed_forward": 2,
}


@pytest.mark.parity("C1")
def test_values_of_a_transformers_config_round_trip(tmp_path):
    transformers.GPT2Config(**CHANGED).save_pretrained(tmp_path)
    config = jm.GPT2Config.from_dict(json.loads((tmp_path / "config.json").read_text()))
    values = config.to_dict()
    for name, value in CHANGED.items():
        if name == "num_labels":
            assert len(values["id2label"]) == config.num_labels == 4
        else:
            assert values[name] == value, name
    (tmp_path / "config.json").write_text(config.to_json())
    returned = transformers.GPT2Config.from_pretrained(tmp_path)
    for name in CHANGED:
        assert getattr(returned, name) == getattr(transformers.GPT2Config(**CHANGED), name), name


@pytest.mark.parity("C1")
def test_defaults_match_transformers():
    config, reference = jm.GPT2Config(), transformers.GPT2Config()
    fields = set(config.to_dict()) & set(reference.to_dict()) - {"label2id", "id2label", "architectures"}
    assert {"vocab_size", "summary_first_dropout", "eos_token_id", "tie_word_embeddings"} <= fields
    for name in fields:
        assert config.to_dict()[name] == reference.to_dict()[name], name
    assert config.id2label == reference.id2label and config.label2id == reference.label2id


@pytest.mark.parity("C1")
def test_every_key_that_transformers_4_57_writes_is_accepted():
    values = json.loads(transformers.GPT2Config().to_json_string(use_diff=False))
    config = jm.GPT2Config.from_dict(values)
    assert jm.GPT2Config.from_dict(config.to_dict()) == config


@pytest.mark.parity("C1")
def test_every_key_that_transformers_4_37_wrote_is_accepted():
    keys = KEYS_4_37.split()
    values = dict.fromkeys(keys) | transformers.GPT2Config().to_dict()
    config = jm.GPT2Config.from_dict({key: values[key] for key in keys})
    for key in keys:
        assert key in config.to_dict(), key  # nothing is lost


@pytest.mark.parity("C1")
def test_keys_of_the_hubs_gpt2_are_accepted():
    """The file of openai-community/gpt2, which predates most keys."""
    values = {
        **{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1},
        **{"bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02},
        **{"layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12},
        **{"n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None},
        **{"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index"},
        **{"summary_use_proj": True, "vocab_size": 50257},
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }
    config = jm.GPT2Config.from_dict(values)
    notes = {name: values[name] for name in ("n_ctx", "task_specific_params")}
    assert config.replace(architectures=None) == jm.GPT2Config(extra=notes)
    assert config.to_dict()["task_specific_params"] == values["task_specific_params"]


@pytest.mark.parametrize(
    "values",
    [
        {"n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True},
        {"n_ctx": 1024, "n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True},
        {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_ctx": 1024, "n_layer": 6},
    ],
    ids=["gpt2-medium", "gpt2-xl", "distilgpt2"],
)
@pytest.mark.parity("C1")
def test_keys_of_other_gpt2_files_of_the_hub_are_accepted(values):
    config = jm.GPT2Config.from_dict({"model_type": "gpt2", **values})
    assert {name: config.to_dict()[name] for name in values} == {
        **values,
        **({"id2label": {0: "LABEL_0"}} if "id2label" in values else {}),
    }


@pytest.mark.parity("C1")
def test_parts_of_the_first_rag_files_are_accepted():
    """Files of RagConfig have every key of their parts, including those of releases 3 and 4.0."""
    old = {"xla_device": None, "eos_token_ids": None, "output_past": False, "_num_labels": 3, "torchscript": False}
    old |= {"use_bfloat16": False, "finetuning_task": None, "pruned_heads": {}, "tokenizer_class": None}
    question = {**transformers.DPRConfig().to_dict(), **old}
    generator = {**transformers.BartConfig().to_dict(), **old, "extra_pos_embeddings": 2}
    config = jm.RagConfig.from_dict({"question_encoder": question, "generator": generator, "xla_device": None})
    assert config.generator == jm.BartConfig.from_dict(generator)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
)
@pytest.mark.parity("C1")
def test_aliases_are_accepted_and_readable(alias, name):
    config = jm.GPT2Config(**{alias: 24})
    assert getattr(config, alias) == getattr(config, name) == 24
    assert config.replace(**{alias: 48}) == jm.GPT2Config(**{name: 48})
    assert alias not in config.to_dict()
    assert getattr(transformers.GPT2Config(**{alias: 24}), name) == 24


@pytest.mark.parity("C1")
def test_conflicting_aliases_are_rejected():
    with pytest.raises(ValueError, match="'n_embd'"):
        jm.GPT2Config(n_embd=48, hidden_size=24)
    assert jm.GPT2Config(n_embd=24, hidden_size=24).n_embd == 24


@pytest.mark.parity("C1")
def test_unknown_key_in_a_call_is_rejected_with_the_closest_key():
    with pytest.raises(ValueError, match="no key 'n_layers'; did you mean 'n_layer'"):
        jm.GPT2Config(n_layers=3)
    with pytest.raises(ValueError, match="no key 'n_layers'; did you mean 'n_layer'"):
        jm.GPT2Config().replace(n_layers=3)
    with pytest.raises(ValueError, match="no key 'n_layers'; did you mean 'n_layer'"):
        jm.GPT2Config.from_dict({"model_type": "gpt2"}, n_layers=3)


@pytest.mark.parity("C1")
def test_generation_settings_in_config_json():
    config = jm.GPT2Config(max_length=50, do_sample=True)
    assert config.generation == {"max_length": 50, "do_sample": True}
    assert config.to_dict()["max_length"] == 50


@pytest.mark.parity("C1")
def test_config_of_another_model_type_is_rejected():
    with pytest.raises(ValueError, match="bert"):
        jm.GPT2Config.from_dict({"model_type": "bert"})


def test_config_is_immutable_and_hashable():
    config = jm.GPT2Config(n_layer=3, pruned_heads={0: [1]}, extra={"task_specific_params": {"a": [1]}})
    same = jm.GPT2Config(n_layer=3, pruned_heads={"0": [1]}, extra={"task_specific_params": {"a": (1,)}})
    assert config == same and hash(config) == hash(same) and config != config.replace(n_layer=4)
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    with pytest.raises(AttributeError):
        config.n_layer = 4
    with pytest.raises(AttributeError, match="nonsense"):
        config.nonsense  # noqa: B018


def test_generation_settings_affect_equality():
    """The config is static under jit, so different settings must not share a compiled program."""
    assert jm.GPT2Config(temperature=0.5) != jm.GPT2Config(temperature=0.7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 30, "n_head": 4}, "n_head=4 does not divide n_embd=30"),
        ({"n_layer": 0}, "n_layer must be a positive int .*, got 0"),
        ({"vocab_size": -1}, "vocab_size must be a positive int"),
        ({"n_positions": 2.5}, "n_positions must be a positive int"),
        ({"resid_pdrop": 1.5}, "resid_pdrop must be a rate"),
        ({"classifier_dropout": -0.1}, "classifier_dropout must be a rate"),
        ({"n_inner": 0}, "n_inner"),
        ({"activation_function": "gelu_never"}, "no activation 'gelu_never'"),
        ({"summary_activation": "gelu_never"}, "no activation 'gelu_never'"),
        ({"pruned_heads": {0: [12]}}, "pruned_heads names layer 0"),
    ],
)
@pytest.mark.parity("C1")
def test_invalid_values_are_rejected_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        jm.GPT2Config(**values)
