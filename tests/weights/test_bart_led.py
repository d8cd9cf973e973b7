"""Loading and saving of BART and LED checkpoints and configs (docs/parity.md, A19, C1, C8, C9, C16, C17, L17)."""

import json
import warnings

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.arrays import close, ids
from support.loading import quietly, same
from support.reference import actual_output, pair, reference_output
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

HEADS = {
    "LEDForSequenceClassification": ("dense", "out_proj"),
    "LEDForQuestionAnswering": ("qa_outputs",),
}


def warned(folder, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, params = jm.load(folder, **options)
    return model, params, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("name", "dtype", "tied"),
    [
        ("BartForConditionalGeneration", "float16", False),
        ("BartModel", "bfloat16", True),
        ("LEDForConditionalGeneration", "bfloat16", False),
        ("LEDForSequenceClassification", "float16", True),
        ("LEDForQuestionAnswering", "float32", False),
    ],
)
@pytest.mark.parity("C16")
def test_every_class_round_trips_in_every_dtype(name, dtype, tied, tmp_path):
    model, params = tiny(name, tie_word_embeddings=tied, decoder_layers=3)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    jm.save(tmp_path, model, params)
    loaded, again = quietly(tmp_path, dtype="auto", param_dtype="auto")
    assert type(loaded) is type(model) and loaded.dtype == dtype
    assert loaded.config.replace(architectures=None, torch_dtype=None) == model.config
    same(again, params)


@pytest.mark.parity("L8")
def test_max_global_tokens_is_set_on_loading(tmp_path):
    """It is a run option, not part of the checkpoint."""
    jm.save(tmp_path, *tiny("LEDForConditionalGeneration", choices={"max_global_tokens": 3}))
    assert jm.load(tmp_path)[0].max_global_tokens is None
    assert jm.load(tmp_path, max_global_tokens=5)[0].max_global_tokens == 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parity("C16")
def test_half_precision_bits_are_preserved_in_torch(dtype, tmp_path):
    model, params = tiny("LEDForConditionalGeneration")
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    jm.save(tmp_path, model, params)
    reference = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    query = reference.led.encoder.layers[1].self_attn.longformer_self_attn.query_global.weight
    assert query.dtype == getattr(torch, dtype)
    kernel = params["led"]["encoder"]["stack"]["layers"]["attention"]["global_q"]["kernel"][1]
    mine = np.ascontiguousarray(np.asarray(kernel).reshape(32, 32).T).view("int16")
    np.testing.assert_array_equal(query.detach().view(torch.int16).numpy(), mine)


@pytest.mark.parametrize(
    ("family", "kept"), [("Bart", "decoder"), ("LED", "encoder"), ("LED", "all"), ("Bart", "lm_head")]
)
@pytest.mark.parity("C16")
def test_shared_embeddings_under_other_names(family, kept, tmp_path):
    """Newer files may have one copy only, or the tied head; `.bin` files have all, and buffers of fairseq."""
    both = pair(f"{family}ForConditionalGeneration", tmp_path / "new")
    tensors = dict(both.reference.state_dict())
    copies = [name for name in tensors if name.endswith(("shared.weight", "embed_tokens.weight"))]
    assert len(copies) == 3 and "lm_head.weight" in tensors
    both.reference.config.save_pretrained(tmp_path)
    if kept != "all":
        for name in (*copies, "lm_head.weight"):
            if f"{kept}.embed_tokens" not in name and not name.startswith(kept):
                del tensors[name]
    else:
        tensors |= {f"led.{stack}.version": torch.tensor([3.0]) for stack in ("encoder", "decoder")}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    same(quietly(tmp_path)[1], both.params)


@pytest.mark.parametrize("family", ["Bart", "LED"])
@pytest.mark.parity("C16")
def test_base_file_loads_into_the_language_model_without_warning(family, tmp_path):
    model, params = tiny(f"{family}Model")
    jm.save(tmp_path, model, params)
    head = quietly(tmp_path, cls=f"{family}ForConditionalGeneration")[1]
    bias = head.pop("final_logits_bias")
    assert bias.shape == (67,) and not np.asarray(bias).any()
    same(head["model" if family == "Bart" else "led"], params)


@pytest.mark.parity("C9")
def test_missing_untied_head_is_reported_without_the_bias(tmp_path):
    jm.save(tmp_path, *tiny("BartModel"))
    name = "BartForConditionalGeneration"
    _, params, messages = warned(tmp_path, cls=name, tie_word_embeddings=False)
    assert len(messages) == 1 and "initialised" in messages[0] and "lm_head/kernel" in messages[0]
    assert "final_logits_bias" not in messages[0] and params["lm_head"]["kernel"].shape == (32, 67)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parity("C16")
def test_missing_heads_are_initialised_with_one_warning(name, tmp_path):
    model, params = tiny("LEDModel")
    jm.save(tmp_path, model, params)
    _, taken, messages = warned(tmp_path, cls=name)
    fresh = {path for path in flatten(taken) if not path.startswith("led/")}
    assert {path.split("/")[-2] for path in fresh} == set(HEADS[name])
    assert len(messages) == 1 and all(path in messages[0] for path in fresh)
    assert "final_logits_bias" not in messages[0]
    same(taken["led"], params)


@pytest.mark.parity("C16")
def test_head_file_loads_into_the_base_model_with_a_warning(tmp_path):
    model, params = tiny("LEDForConditionalGeneration")
    jm.save(tmp_path / "lm", model, params)
    _, taken, messages = warned(tmp_path / "lm", cls="LEDModel")
    same(taken, params["led"])
    assert len(messages) == 1 and "final_logits_bias" in messages[0]
    model, params = tiny("LEDForQuestionAnswering")
    jm.save(tmp_path / "qa", model, params)
    _, taken, messages = warned(tmp_path / "qa", cls="LEDModel")
    same(taken, params["led"])
    assert len(messages) == 1 and "qa_outputs.weight" in messages[0] and "qa_outputs.bias" in messages[0]


@pytest.mark.parity("C16")
def test_unsupported_bart_heads_are_reported_as_unused(tmp_path):
    jm.save(tmp_path, *tiny("BartModel"))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["classification_head.dense.weight"] = torch.zeros(32, 32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "classification_head.dense.weight" in warned(tmp_path)[2][0]


@pytest.mark.parity("L17")
def test_saved_names_match_the_reference(tmp_path):
    reference = transformers.LEDForConditionalGeneration(pair("LEDModel", tmp_path / "r").reference.config)
    jm.save(tmp_path, *tiny("LEDForConditionalGeneration"))
    names = load_file(tmp_path / "model.safetensors").keys()
    repeated = {name for name in reference.state_dict() if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert set(names) == set(reference.state_dict()) - repeated
    assert "led.encoder.layers.1.self_attn.longformer_self_attn.value_global.bias" in names


@pytest.mark.parity("C16")
def test_extra_and_missing_layers_are_reported(tmp_path):
    jm.save(tmp_path, *tiny("LEDModel"))
    values = json.loads((tmp_path / "config.json").read_text())
    for layers, name in (
        (1, r"encoder\.layers\.1\.self_attn\.longformer_self_attn\.query"),
        (3, "encoder/stack/layers"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**values, "encoder_layers": layers}))
        with pytest.raises(jm.WeightsError, match=name):
            jm.load(tmp_path)


@pytest.mark.parametrize(("family", "size"), [("Bart", 60), ("LED", 80)])
@pytest.mark.parity("C8")
def test_resized_vocabulary_keeps_embeddings_and_pads_the_bias_with_zeros(family, size, tmp_path):
    both = pair(f"{family}ForConditionalGeneration", tmp_path)
    model, params = jm.resize_token_embeddings(both.model, both.params, size, key=jax.random.key(0))
    bias = np.asarray(params["final_logits_bias"])
    assert bias.shape == (size,) and not bias[67:].any()
    rows = {"input_ids": ids((2, 5), low=3, high=60), "decoder_input_ids": ids((2, 4), seed=1, low=3, high=60)}
    expected = reference_output(both, **rows).logits
    both.reference.resize_token_embeddings(size)
    np.testing.assert_array_equal(both.reference.final_logits_bias.numpy()[0], bias)
    got = actual_output(pair_like(both, model, params), **rows).logits
    kept = min(size, 67)
    assert got.shape == (2, 4, size)
    close(got[..., :kept], expected[..., :kept])


def pair_like(both, model, params):
    return type(both)(both.reference, model, params, both.folder)


@pytest.mark.parity("C17")
def test_auto_classes_of_bart(tmp_path):
    """LED's are in test_class_choice.py. Of BART's heads only the language model is implemented."""
    jm.save(tmp_path, *tiny("BartForConditionalGeneration"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(jm.load(tmp_path, cls="AutoModel")[0]) is jm.BartModel
    for head in ("ForPreTraining", "WithLMHead", "ForSeq2SeqLM", "ForMaskedLM"):
        assert type(jm.load(tmp_path, cls=f"AutoModel{head}")[0]) is jm.BartForConditionalGeneration
    for head in ("ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering"):
        with pytest.raises(ValueError, match=f"AutoModel{head} has no class for 'bart'"):
            jm.load(tmp_path, cls=f"AutoModel{head}")


# Contents of config.json files on the Hub.
LABELS = {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}, "label2id": {f"LABEL_{i}": i for i in range(3)}}
BART_BASE = {
    "_name_or_path": "bart-base",
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartModel"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "d_model": 768,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "forced_bos_token_id": 0,
    "gradient_checkpointing": False,
    **LABELS,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "num_hidden_layers": 6,
    "pad_token_id": 1,
    "scale_embedding": False,
    "task_specific_params": {"summarization": {"length_penalty": 1.0, "max_length": 128, "min_length": 12}},
    "torch_dtype": "float32",
    "transformers_version": "4.12.0.dev0",
    "use_cache": True,
    "vocab_size": 50265,
}
LARGE = {f"{stack}_{name}": value for stack in ("encoder", "decoder")
         for name, value in (("layers", 12), ("attention_heads", 16), ("ffn_dim", 4096))}  # fmt: skip
BART_LARGE_CNN = {
    **{key: value for key, value in BART_BASE.items() if key not in ("_name_or_path", "add_bias_logits")},
    **LARGE,
    "_num_labels": 3,
    "architectures": ["BartForConditionalGeneration"],
    "d_model": 1024,
    "num_hidden_layers": 12,
    "force_bos_token_to_be_generated": True,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "output_past": True,
    "prefix": " ",
    "vocab_size": 50264,
}
LED_BASE = {
    **{key: value for key, value in BART_BASE.items() if key.startswith(("activation", "attention", "classif", "d"))},
    **{key: value for key, value in BART_BASE.items() if key.endswith(("token_id", "_layerdrop", "version"))},
    **{key: BART_BASE[key] for key in ("init_std", "is_encoder_decoder", "num_hidden_layers", "use_cache")},
    **{key: BART_BASE[key] for key in ("encoder_attention_heads", "encoder_ffn_dim", "encoder_layers")},
    **LABELS,
    "_name_or_path": "./",
    "architectures": ["LEDForConditionalGeneration"],
    "attention_window": [1024] * 6,
    "gradient_checkpointing": False,
    "max_decoder_position_embeddings": 1024,
    "max_encoder_position_embeddings": 16384,
    "model_type": "led",
    "vocab_size": 50265,
}
FILES = {
    "bart-base": (jm.BartConfig, BART_BASE),
    "bart-large-cnn": (jm.BartConfig, BART_LARGE_CNN),
    "led-base-16384": (jm.LEDConfig, LED_BASE),
    "an led converted from bart": (
        jm.LEDConfig,
        {**LED_BASE, "scale_embedding": False, "static_position_embeddings": False, "max_position_embeddings": 1024},
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parity("C1")
def test_published_config_files_round_trip(name, tmp_path):
    cls, values = FILES[name]
    config = cls.from_dict(values)
    written = config.to_dict()
    read = {**values, **{key: {int(i): label for i, label in values[key].items()} for key in ("id2label",)}}
    assert {key: written[key] for key in read} == read
    assert cls.from_dict(json.loads(config.to_json())) == config
    (tmp_path / "config.json").write_text(config.to_json())
    reference = transformers.AutoConfig.from_pretrained(tmp_path)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "decoder_ffn_dim", "num_labels", "init_std"):
        assert getattr(config, key) == getattr(reference, key), key


@pytest.mark.parametrize("given", [{}, {"forced_bos_token_id": 7}, {"bos_token_id": 5}], ids=str)
@pytest.mark.parity("A19")
def test_older_key_of_forced_bos_token_id(given):
    values = {"force_bos_token_to_be_generated": True, **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = transformers.BartConfig(**values).forced_bos_token_id
    assert jm.BartConfig.from_dict(values).generation["forced_bos_token_id"] == expected
    assert "forced_bos_token_id" not in jm.BartConfig.from_dict({"force_bos_token_to_be_generated": False}).generation


@pytest.mark.parametrize("family", ["Bart", "LED"])
@pytest.mark.parity("C1")
def test_defaults_match_the_reference(family):
    mine, reference = getattr(jm, f"{family}Config")(), getattr(transformers, f"{family}Config")()
    for key, value in reference.to_dict().items():
        if hasattr(mine, key) and key not in ("id2label", "label2id", "pruned_heads"):
            assert getattr(mine, key) == value, key
    assert mine.num_labels == reference.num_labels
    assert mine.generation.get("forced_eos_token_id") == reference.forced_eos_token_id


@pytest.mark.parity("C1")
def test_aliases_are_readable_and_accepted():
    config = jm.LEDConfig(
        hidden_size=32, num_attention_heads=2, attention_probs_dropout_prob=0.3, initializer_range=1.0
    )
    assert (config.d_model, config.encoder_attention_heads, config.attention_dropout, config.init_std) == (
        32,
        2,
        0.3,
        1,
    )
    assert jm.LEDConfig(attention_window=[4, 8], encoder_layers=2).windows == (4, 8)
    assert jm.LEDConfig(attention_window=6, encoder_layers=3).windows == (6, 6, 6)
