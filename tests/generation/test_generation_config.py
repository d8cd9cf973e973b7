"""`GenerationConfig`: files, priorities, warnings (docs/parity.md, N2, N14, note 7)."""

import dataclasses
import inspect
import json
import warnings

import pytest
import transformers

import jaxmodels as jm
from jaxmodels import GenerationConfig
from jaxmodels.architectures.led import LEDForConditionalGeneration
from jaxmodels.generation.api import PROMPTS, CallArguments, WarmupOptions
from jaxmodels.generation.options import GenerateOptions, GenerationOptions, ModelInputs

# A value other than the default for every field.
VALUES = {
    "max_new_tokens": 7,
    "max_length": 33,
    "min_length": 3,
    "min_new_tokens": 2,
    "max_time": 1.5,
    "stop_strings": ["a", "bc"],
    "early_stopping": "never",
    "do_sample": True,
    "num_beams": 4,
    "temperature": 0.7,
    "top_k": 9,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.8,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02,
    "repetition_penalty": 1.2,
    "encoder_repetition_penalty": 1.1,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[5], [6, 7]],
    "sequence_bias": {(5,): 1.5, (6, 7): -2.0},
    "guidance_scale": 1.5,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "forced_bos_token_id": 8,
    "forced_eos_token_id": [9, 10],
    "forced_decoder_ids": [[1, 5], [2, None]],
    "exponential_decay_length_penalty": (5, 1.1),
    "suppress_tokens": [11],
    "begin_suppress_tokens": [12, 13],
    "num_return_sequences": 3,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "eos_token_id": [3, 4],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "decoder_start_token_id": 2,
}
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
# Beams cannot have stop strings, and groups cannot sample.
COMPATIBLE = {name: value for name, value in VALUES.items() if name != "stop_strings"}


@pytest.mark.parity("N14")
def test_every_field_has_a_value_here():
    assert {field.name for field in dataclasses.fields(GenerationConfig)} == VALUES.keys() | GROUPS.keys()


@pytest.mark.parity("N14")
def test_typed_keywords_are_exactly_the_options_and_inputs():
    """Editors complete the keywords of `generate` from these types."""
    options = {field.name for field in dataclasses.fields(GenerationConfig)}
    inputs = {*LEDForConditionalGeneration.encoding_options, "do_deduplication"}
    inputs |= {name for prompts in PROMPTS.values() for name in prompts.INPUTS}
    arguments = {field.name for field in dataclasses.fields(CallArguments)}
    assert GenerationOptions.__optional_keys__ == options
    assert ModelInputs.__optional_keys__ == inputs
    assert GenerateOptions.__optional_keys__ == options | inputs
    assert WarmupOptions.__optional_keys__ == (options - {"max_new_tokens"}) | inputs | arguments
    assert inspect.signature(jm.generate).parameters.keys() == arguments | {
        *("model", "params", "input_ids", "attention_mask", "options")
    }


@pytest.mark.parametrize("values", [COMPATIBLE, GROUPS, {"stop_strings": ["a", "bc"]}, {}], ids=len)
@pytest.mark.parity("N14")
def test_saved_configurations_are_loaded(values, tmp_path):
    config = GenerationConfig(**values)
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    assert GenerationConfig.from_dict(config.to_dict()) == config
    assert json.loads((tmp_path / "generation_config.json").read_text()) == config.to_dict()
    assert config.to_dict().keys() == values.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["generation_config.json"]


@pytest.mark.parity("N14")
def test_files_of_the_reference_are_loaded(tmp_path):
    later = {
        "output_logits",
        "min_p",
        "forced_decoder_ids",
        "stop_strings",
    }  # 4.57 stores them differently, or not at all
    values = {name: value for name, value in COMPATIBLE.items() if name not in later}
    values["sequence_bias"] = [[[5], 1.5], [[6, 7], -2.0]]  # JSON has no tuples for keys
    transformers.GenerationConfig(**values, return_dict_in_generate=True).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GenerationConfig.from_pretrained(tmp_path) == GenerationConfig(**values)


@pytest.mark.parity("N14")
def test_the_reference_loads_saved_files(tmp_path):
    GenerationConfig(**COMPATIBLE).save_pretrained(tmp_path)
    reference = transformers.GenerationConfig.from_pretrained(tmp_path)
    for name in ("max_new_tokens", "top_p", "bad_words_ids", "eos_token_id", "early_stopping", "num_return_sequences"):
        assert getattr(reference, name) == VALUES[name], name


@pytest.mark.parity("N14")
def test_unknown_settings_are_warned_of_and_metadata_is_not():
    with pytest.warns(UserWarning, match="unknown generation settings are ignored: my_setting, watermarking_config"):
        GenerationConfig.from_dict({"watermarking_config": {}, "my_setting": 1, "top_k": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = {"_from_model_config": True, "transformers_version": "4.37.2", "use_cache": True}
        assert GenerationConfig.from_dict(notes) == GenerationConfig()


@pytest.mark.parity("N14")
def test_none_is_the_default_and_disables_top_k():
    values = {field.name: None for field in dataclasses.fields(GenerationConfig)}
    assert GenerationConfig(**values) == GenerationConfig(top_k=0)


@pytest.mark.parity("N13", "N14")
def test_single_ids_lists_and_negative_eos_ids():
    assert GenerationConfig(eos_token_id=3, forced_eos_token_id=4) == GenerationConfig(
        eos_token_id=[3], forced_eos_token_id=[4]
    )
    assert GenerationConfig(eos_token_id=[-1, 3]).eos_token_id == (3,)
    assert GenerationConfig(sequence_bias=[[[5], 1.5], [[6, 7], -2.0]]) == GenerationConfig(
        sequence_bias={(5,): 1.5, (6, 7): -2.0}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "must contain a JSON object, got a list"),
        ('{"num_beams": 0}', "generation_config.json has num_beams=0"),
    ],
)
@pytest.mark.parity("N14")
def test_invalid_files_are_rejected_by_name(text, message, tmp_path):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        GenerationConfig.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        GenerationConfig.from_pretrained(tmp_path / "elsewhere")


MODEL = jm.GPT2Config(eos_token_id=7, pad_token_id=0, bos_token_id=1).replace(
    generation={"max_new_tokens": 5, "eos_token_id": [8, 9], "top_k": 3, "do_sample": True}
)


@pytest.mark.parity("N14")
def test_call_overrides_checkpoint_settings_over_model_config():
    merged = GenerationConfig.merge(MODEL, None, {"top_k": 4})
    assert (merged.top_k, merged.max_new_tokens, merged.eos_token_id) == (4, 5, (8, 9))
    assert (merged.pad_token_id, merged.bos_token_id) == (0, 1)
    assert GenerationConfig.merge(MODEL.replace(generation={}), None, {}).eos_token_id == (7,)
    assert GenerationConfig.merge(MODEL, None, {"eos_token_id": None}).eos_token_id == ()


@pytest.mark.parity("N14")
def test_generation_config_replaces_the_checkpoint_except_unset_ids():
    config = GenerationConfig(max_new_tokens=6, pad_token_id=2)
    merged = GenerationConfig.merge(MODEL, config, {"num_beams": 2})
    assert (merged.max_new_tokens, merged.num_beams, merged.top_k, merged.do_sample) == (6, 2, 50, False)
    assert (merged.pad_token_id, merged.bos_token_id, merged.eos_token_id) == (2, 1, (7,))
    assert config == GenerationConfig(max_new_tokens=6, pad_token_id=2)


def merged(**call):
    return GenerationConfig.merge(MODEL.replace(generation={}), None, call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": 30, "max_length": 20}, "min_length requires 30 tokens .* at most 20 are allowed"),
        ({"min_length": 12, "max_new_tokens": 6}, "min_length requires 12 .* at most 11 are allowed"),
        ({"min_new_tokens": 7, "max_new_tokens": 6}, "min_new_tokens requires 12 .* at most 11 are allowed"),
    ],
)
@pytest.mark.parity("N2")
def test_a_minimum_of_the_checkpoint_above_the_maximum_warns(options, message):
    """The reference generates up to the maximum. A minimum in the call is rejected, see `test_refused_options`."""
    with pytest.warns(UserWarning, match=message):
        assert GenerationConfig(**options).new_tokens(5) == {"max_length": 15}.get(list(options)[1], 6)


@pytest.mark.parity("N2")
def test_max_new_tokens_overrides_max_length_with_a_warning():
    with pytest.warns(UserWarning, match="max_length has no effect because max_new_tokens is set"):
        assert merged(max_new_tokens=3, max_length=50).new_tokens(10) == 3
    assert merged(max_length=50).new_tokens(10) == 40
    assert merged().new_tokens(4) == 16


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, "temperature, top_p"),
        ({"top_k": 10}, "top_k"),
        ({"typical_p": 0.5, "num_beams": 3}, "typical_p"),
        ({"length_penalty": 2.0, "early_stopping": True}, "early_stopping, length_penalty"),
    ],
)
@pytest.mark.parity("N14")
def test_options_without_effect_warn(call, named):
    with pytest.warns(UserWarning, match=f"^{named}: no effect"):
        merged(**call)


@pytest.mark.parametrize(
    "call",
    [
        {"do_sample": True, "temperature": 0.5, "top_k": 10},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
        {"temperature": 1.0, "top_k": 50, "length_penalty": 1.0},
    ],
)
@pytest.mark.parity("N14")
def test_options_with_effect_or_default_values_do_not_warn(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged(**call)
