"""Generation settings in generation_config.json and in older config.json files (docs/parity.md, note 7)."""

import json

import pytest
import transformers
from support.reference import torch_model
from support.tiny import tiny

import jaxmodels as jm

SETTINGS = {
    "_from_model_config": True,
    "eos_token_id": [2, 3],
    "max_new_tokens": 5,
    "transformers_version": "4.57.6",
    "watermarking_config": {"greenlist_ratio": 0.25},
}


def _folder(path, settings=None):
    jm.save(path, *tiny(max_length=40, eos_token_id=1))
    if settings is not None:
        (path / "generation_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parity("N14")
def test_generation_config_json_takes_precedence(tmp_path):
    config = jm.load(_folder(tmp_path, {**SETTINGS, "max_length": 30}))[0].config
    assert config.generation["max_length"] == 30 and config.generation["eos_token_id"] == (2, 3)
    assert config.eos_token_id == 1  # the config's value is unchanged


@pytest.mark.parity("N14")
def test_settings_in_config_json_are_read_without_generation_config_json(tmp_path):
    folder = _folder(tmp_path)
    (folder / "generation_config.json").unlink()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "max_length": 40}))
    assert jm.load(folder)[0].config.generation == {"max_length": 40}


@pytest.mark.parametrize("made_from_config", [False, True])
@pytest.mark.parity("N14")
def test_generation_config_json_replaces_settings_in_config_json(made_from_config, tmp_path):
    """As in transformers, settings in config.json apply only if generation_config.json was derived from it."""
    config = {"min_length": 4, "num_beams": 2, "forced_eos_token_id": 2}
    torch_model("BartForConditionalGeneration").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **config}))
    settings = {"_from_model_config": True} if made_from_config else {"no_repeat_ngram_size": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))

    got = jm.GenerationConfig.from_model_config(jm.load(tmp_path)[0].config)
    expected = (0, 4, 2, (2,)) if made_from_config else (3, 0, 1, ())
    assert (got.no_repeat_ngram_size, got.min_length, got.num_beams, got.forced_eos_token_id) == expected
    assert (got.eos_token_id, got.decoder_start_token_id) == ((2,), 2)


def test_loaded_config_round_trips_through_a_dict(tmp_path):
    config = jm.load(_folder(tmp_path, SETTINGS))[0].config
    again = jm.GPT2Config.from_dict(config.to_dict())
    assert again.replace(generation=config.generation) == config
    assert again.eos_token_id == 1


@pytest.mark.parity("N14")
def test_settings_round_trip_in_generation_config_json(tmp_path):
    model, params = jm.load(_folder(tmp_path / "first", SETTINGS))
    jm.save(tmp_path / "second", model, params)
    written = json.loads((tmp_path / "second" / "generation_config.json").read_text())
    assert written == {**{name: getattr(model.config, name) for name in ("bos_token_id", "pad_token_id")}, **SETTINGS}
    assert "max_new_tokens" not in json.loads((tmp_path / "second" / "config.json").read_text())
    assert jm.load(tmp_path / "second")[0].config.generation == model.config.generation


@pytest.mark.parity("N14")
def test_saving_removes_an_old_generation_config_json(tmp_path):
    folder = _folder(tmp_path, SETTINGS)
    jm.save(folder, *tiny())
    assert not (folder / "generation_config.json").exists()
    assert jm.load(folder)[0].config.generation == {}


@pytest.mark.parity("N14")
def test_transformers_reads_token_ids_with_saved_settings(tmp_path):
    """transformers ignores those in config.json if there is a generation_config.json."""
    model, params = tiny("BartForConditionalGeneration")
    settings = {"forced_eos_token_id": 2, "num_beams": 3}
    model = model.clone(config=model.config.replace(eos_token_id=(2, 5), generation=settings))
    jm.save(tmp_path, model, params)
    reference = transformers.GenerationConfig.from_pretrained(tmp_path)
    for name in ("bos_token_id", "pad_token_id", "decoder_start_token_id"):
        assert getattr(reference, name) == getattr(model.config, name) is not None
    assert (reference.eos_token_id, reference.num_beams) == ([2, 5], 3)
    assert dict(jm.load(tmp_path)[0].config.generation) == settings


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BartForConditionalGeneration"])
@pytest.mark.parametrize(
    ("stated", "settings"),
    [
        ({"num_beams": 2}, {"_from_model_config": True, "num_beams": 3, "top_k": 7}),
        ({"num_beams": 1}, {"_from_model_config": True, "num_beams": 3, "top_k": 7}),
        ({"num_beams": 2}, {"num_beams": 3}),
        ({"num_beams": 2, "max_new_tokens": 9, "no_repeat_ngram_size": None}, None),
        ({"max_new_tokens": 9}, {"_from_model_config": True, "num_beams": 3}),
    ],
    ids=["of the config, which states some", "of a config that states none", "of its own", "no file", "younger"],
)
@pytest.mark.parity("N14")
def test_precedence_of_files_matches_transformers(name, stated, settings, tmp_path):
    torch_model(name).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **stated}))
    (tmp_path / "generation_config.json").unlink()
    if settings is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    got = jm.load_config(tmp_path).generation
    reference = getattr(transformers, name).from_pretrained(tmp_path)
    expected, _ = reference._prepare_generation_config(None)
    defaults = transformers.GenerationConfig()
    for key in ("num_beams", "top_k", "max_new_tokens", "no_repeat_ngram_size"):
        assert (got.get(key) or getattr(defaults, key)) == (getattr(expected, key) or getattr(defaults, key)), key
