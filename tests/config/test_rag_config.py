"""RagConfig and its two parts (docs/parity.md, A2)."""

import pytest
import transformers

import jaxmodels as jm
from jaxmodels.config import SPECIAL_TOKEN_IDS

GENERATORS = {"bart": (jm.BartConfig, transformers.BartConfig), "t5": (jm.T5Config, transformers.T5Config)}
# Set explicitly, because the defaults of the two libraries may differ.
IDS = {"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 7, "decoder_start_token_id": 8}


def both(generator: str, own: dict, **values):
    """The same configuration, here and in the reference."""
    here, there = GENERATORS[generator]
    make = transformers.RagConfig.from_question_encoder_generator_configs
    return (
        jm.RagConfig.from_question_encoder_generator_configs(jm.DPRConfig(projection_dim=4), here(**own), **values),
        make(transformers.DPRConfig(projection_dim=4), there(**own), **values),
    )


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parity("A2")
def test_parts_are_selected_by_model_type(generator):
    config, reference = both(generator, {**IDS, "vocab_size": 99}, n_docs=3, title_sep=" - ")
    loaded = jm.RagConfig.from_dict(reference.to_dict())
    assert type(loaded.question_encoder) is jm.DPRConfig and loaded.question_encoder.projection_dim == 4
    assert type(loaded.generator) is GENERATORS[generator][0] and loaded.generator.vocab_size == 99
    assert (loaded.n_docs, loaded.title_sep, loaded.doc_sep) == (3, " - ", " // ")
    back = transformers.RagConfig(**config.to_dict())
    for part in ("question_encoder", "generator"):
        assert type(getattr(back, part)) is type(getattr(reference, part))
    assert (back.n_docs, back.title_sep, back.generator.vocab_size) == (3, " - ", 99)


@pytest.mark.parity("A2")
def test_token_ids_and_settings_default_to_the_generator():
    config, reference = both("bart", {**IDS, "forced_eos_token_id": 9})
    assert config.generation["forced_eos_token_id"] == reference.forced_eos_token_id == 9
    assert {name: getattr(config, name) for name in SPECIAL_TOKEN_IDS} == IDS
    config, reference = both("bart", {**IDS, "forced_eos_token_id": 9}, forced_eos_token_id=4, pad_token_id=3)
    assert config.generation["forced_eos_token_id"] == reference.forced_eos_token_id == 4
    assert config.pad_token_id == reference.pad_token_id == 3
    assert config.generator.pad_token_id == reference.generator.pad_token_id == 7


@pytest.mark.parity("A2")
def test_unsupported_parts_are_rejected():
    with pytest.raises(ValueError, match="generator must be a config of bart or t5, got 'gpt2'"):
        jm.RagConfig.from_question_encoder_generator_configs(jm.DPRConfig(), jm.GPT2Config())
    with pytest.raises(ValueError, match="question_encoder must be a config of dpr, got None"):
        jm.RagConfig(generator=jm.BartConfig())
    with pytest.raises(ValueError, match="question_encoder must be a config of dpr, got 'bert'"):
        jm.RagConfig.from_dict({"question_encoder": {"model_type": "bert"}, "generator": {"model_type": "bart"}})
