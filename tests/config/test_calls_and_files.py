"""Keys in calls and in files, and loading and saving of configs (docs/parity.md, C1)."""

import dataclasses
import json
import warnings

import pytest
import transformers
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.config.files import NO_EFFECT

FAMILIES = (
    *(jm.GPT2Config, jm.GPTNeoConfig, jm.DPRConfig, jm.RobertaPreLayerNormConfig, jm.BartConfig, jm.LEDConfig),
    *(jm.T5Config, jm.RagConfig),
)


def example(cls):
    parts = {"question_encoder": jm.DPRConfig(), "generator": jm.BartConfig()}
    return cls(**(parts if cls is jm.RagConfig else {}))


@pytest.mark.parametrize("cls", FAMILIES)
@pytest.mark.parity("C1")
def test_keys_without_effect_are_kept_in_files_and_rejected_in_calls(cls):
    checked = {"tie_encoder_decoder", "dense_act_fn", "is_gated_act", "attention_layers"}
    for key in {**NO_EFFECT, **cls.no_effect}.keys() - checked:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = cls.from_dict({**example(cls).to_dict(), key: 1})
        assert config.to_dict()[key] == config.extra[key] == 1
        for call in (lambda key=key: cls(**{key: 1}), lambda key=key: example(cls).replace(**{key: 1})):
            with pytest.raises(ValueError, match=f"{key!r} has no effect here"):
                call()


@pytest.mark.parametrize(
    ("key", "way"),
    [("gradient_checkpointing", "remat=True"), ("attn_implementation", "attention="), ("use_cache", "cache=")],
)
@pytest.mark.parity("C1")
def test_run_options_are_rejected_with_the_equivalent(key, way):
    with pytest.raises(ValueError, match=way):
        jm.BartConfig(**{key: True})
    with pytest.raises(AttributeError, match=way):
        setattr(jm.BartConfig(), key, True)


@pytest.mark.parametrize("cls", FAMILIES)
@pytest.mark.parity("C1")
def test_unknown_keys_of_a_file_are_reported_once_and_round_trip(cls, tmp_path):
    unknown = {
        "line_by_line": True,
        "n_vocab": 50257,
        "validate": 3,
        "hidden_sizes": [1],
        "extra": {"a": 1},
        "generation": {"max_length": 3},
        "__class__": None,
        "deep": {"a": [{"b": [1.5, None]}]},
    }
    before = example(cls)
    (tmp_path / "config.json").write_text(json.dumps({**before.to_dict(), **unknown}))
    with pytest.warns(UserWarning, match="unknown keys") as caught:
        config = cls.from_pretrained(tmp_path)
    assert len(caught) == 1 and all(key in str(caught[0].message) for key in unknown)
    assert config.replace(extra={}) == before and callable(config.validate)
    config.replace(return_dict=False).save_pretrained(tmp_path / "again")
    with pytest.warns(UserWarning, match="unknown keys"):
        again = jm.load_config(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()).items() >= unknown.items()
    assert again == config.replace(return_dict=False)


@pytest.mark.parity("C1")
def test_misspelt_key_of_a_file_is_reported_with_the_closest_key():
    with pytest.warns(UserWarning, match=r"n_layers \(did you mean n_layer\?\)"):
        assert jm.GPT2Config.from_dict({"n_layers": 3}).n_layer == 12


@pytest.mark.parity("C1", "A2")
def test_unknown_keys_of_rag_parts_are_in_the_same_warning():
    values = example(jm.RagConfig).to_dict()
    values["generator"]["one"] = values["question_encoder"]["two"] = values["three"] = 1
    with pytest.warns(UserWarning, match="three, question_encoder.two, generator.one") as caught:
        config = jm.RagConfig.from_dict(values)
    assert len(caught) == 1
    assert (config.generator.extra["one"], config.question_encoder.extra["two"], config.extra["three"]) == (1, 1, 1)


@pytest.mark.parity("C1")
def test_extra_rejects_keys_with_effect():
    with pytest.raises(ValueError, match="extra is for keys without effect, but 'n_layer' has one"):
        jm.GPT2Config(extra={"n_layer": 3})


@pytest.mark.parity("C1")
def test_override_replaces_an_invalid_value_of_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "pad_token_id": -1, "n_layer": 3}))
    with pytest.raises(ValueError, match="pad_token_id must be a token id"):
        jm.load_config(tmp_path)
    assert jm.load_config(tmp_path, pad_token_id=None) == jm.GPT2Config(n_layer=3)


@pytest.mark.parity("C1", "C17")
def test_class_determines_a_missing_model_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 32, "encoder_attention_heads": 4}))
    for cls in (jm.BartForConditionalGeneration, "BartModel"):
        assert jm.load_config(tmp_path, cls=cls) == jm.BartConfig(d_model=32, encoder_attention_heads=4)
    assert jm.BartConfig.from_pretrained(tmp_path).d_model == 32
    with pytest.raises(ValueError, match="has no model_type.*pass cls="):
        jm.load_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 3, "architectures": ["GPT2LMHeadModel"]}))
    assert jm.load_config(tmp_path).n_layer == 3


@pytest.mark.parametrize("model_type", [3, ["gpt2"], {"a": 1}, True, "", "gpt3"])
@pytest.mark.parity("C1")
def test_invalid_model_type_is_rejected(model_type, tmp_path):
    with pytest.raises(ValueError, match="GPT2Config is for model_type 'gpt2', not for"):
        jm.GPT2Config.from_dict({"model_type": model_type})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match="is none of the families here"):
        jm.load_config(tmp_path)


@pytest.mark.parametrize("cls", FAMILIES)
@pytest.mark.parity("C1")
def test_every_config_class_saves_and_loads(cls, tmp_path):
    config = example(cls).replace(output_attentions=True, max_new_tokens=7)
    config.save_pretrained(tmp_path / "sub")
    assert cls.from_pretrained(tmp_path / "sub") == config
    assert jm.load_config(tmp_path, subfolder="sub") == config
    assert cls.from_pretrained(tmp_path, subfolder="sub", output_attentions=False, local_files_only=True) == (
        config.replace(output_attentions=False)
    )
    assert "max_new_tokens" not in json.loads((tmp_path / "sub" / "config.json").read_text())
    config.replace(generation={}).save_pretrained(tmp_path / "sub")
    if not cls.generation_defaults and cls is not jm.RagConfig:
        assert not (tmp_path / "sub" / "generation_config.json").exists()
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "sub")
    assert theirs.output_attentions is True and type(theirs).__name__ == cls.__name__


@pytest.mark.parity("C1")
def test_folder_without_config_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json; it contains nothing"):
        jm.GPT2Config.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="read from a mapping"):
        jm.GPT2Config.from_dict([1])


@pytest.mark.parity("C16")
def test_load_and_load_config_agree(tmp_path):
    jm.save(tmp_path, *tiny(max_length=11))
    changes = {"eos_token_id": 3, "num_beams": 2}
    assert jm.load(tmp_path, **changes)[0].config == jm.load_config(tmp_path, **changes)


@pytest.mark.parity("C1")
def test_error_of_assignment_names_replace():
    config = jm.GPT2Config()
    with pytest.raises(
        dataclasses.FrozenInstanceError, match=r"config.replace\(pad_token_id=0\).*model.clone.*jm.load"
    ):
        config.pad_token_id = 0
    with pytest.raises(AttributeError, match=r"config.replace\(hidden_size=8\)"):
        config.hidden_size = 8
    with pytest.raises(AttributeError, match="no key 'pad_token'; did you mean 'pad_token_id'"):
        config.pad_token = 0
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del config.pad_token_id


@pytest.mark.parity("C1")
def test_dtype_key_of_transformers_5():
    assert jm.GPT2Config.from_dict({"dtype": "bfloat16"}).torch_dtype == "bfloat16"
    assert jm.GPT2Config.from_dict({"dtype": "bfloat16", "torch_dtype": "float32"}).torch_dtype == "bfloat16"
    assert jm.GPT2Config.from_dict({"dtype": None, "torch_dtype": "torch.float16"}).torch_dtype == "float16"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [True, False, None])
@pytest.mark.parity("C9")
def test_scale_decoder_outputs_of_transformers_5(tied, scaled):
    config = jm.T5Config(tie_word_embeddings=tied, scale_decoder_outputs=scaled)
    assert config.scales_outputs is (tied if scaled is None else scaled)
    written = config.to_dict()
    assert written.get("scale_decoder_outputs") is scaled and ("scale_decoder_outputs" in written) is (
        scaled is not None
    )
    assert jm.T5Config.from_dict(written) == config
    model, params = tiny("T5ForConditionalGeneration", tie_word_embeddings=tied, scale_decoder_outputs=scaled)
    other = model.clone(config=model.config.replace(scale_decoder_outputs=not config.scales_outputs))
    run = {"input_ids": [[5, 6, 7]], "decoder_input_ids": [[0, 8]]}
    logits, others = (each.apply({"params": params}, **run).logits for each in (model, other))
    factor = model.config.d_model ** (-0.5 if config.scales_outputs else 0.5)
    assert abs(logits - others * factor).max() < 1e-5 * abs(logits).max()
