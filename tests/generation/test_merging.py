"""Options of a call override those of a checkpoint before anything is validated (docs/parity.md, N14)."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.diverse_models import generate, random_ids

import jaxmodels as jm
from jaxmodels import GenerationConfig

MODEL = jm.GPT2Config(vocab_size=100, eos_token_id=7, pad_token_id=0, bos_token_id=1)


def merged(file, call=None, config=MODEL):
    return GenerationConfig.merge(config.replace(generation=file), None, call or {})


# Options of a file and of a call that together are valid.
NEUTRAL = [
    ({"temperature": 0.0, "do_sample": False}, {}),
    ({"temperature": 0.0}, {"temperature": 1.0}),
    ({"temperature": 0.0, "do_sample": True}, {"do_sample": False}),
    ({"temperature": 0.0, "do_sample": True}, {"temperature": 0.7}),
    ({"temperature": -1.0, "top_p": "high"}, {}),
    ({"top_p": 0.0}, {}),
    ({"top_p": 0.0}, {"do_sample": True, "top_p": 1.0}),
    ({"top_k": -1}, {}),
    ({"top_k": -1, "do_sample": True}, {}),
    ({"typical_p": 0.0}, {"typical_p": 1.0}),
    ({"min_p": 7.0, "epsilon_cutoff": 1.0, "eta_cutoff": -1.0}, {}),
    ({"early_stopping": "sometimes", "length_penalty": None}, {}),
    ({"diversity_penalty": 0.5}, {"diversity_penalty": 0.0}),
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"num_beams": 1}),
    ({"num_beams": 1, "num_beam_groups": 2, "diversity_penalty": 0.5}, {}),
    ({"num_beam_groups": 2}, {"num_beam_groups": 1}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": None}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"do_sample": True}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"num_beams": 2}),
    ({"penalty_alpha": 0.6, "top_k": 1}, {}),
    ({"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": None}),
    ({"force_words_ids": [[5]], "num_beams": 2}, {"force_words_ids": None}),
    ({"num_beams": 4, "stop_strings": ["x"]}, {"num_beams": 1}),
    ({"num_beams": 4, "stop_strings": ["x"]}, {"stop_strings": None}),
    ({"num_return_sequences": 3}, {"num_return_sequences": 1}),
    ({"max_new_tokens": 0}, {"max_new_tokens": 2}),
    ({"max_length": 0}, {"max_new_tokens": 2}),
    ({"bad_words_ids": [[]]}, {"bad_words_ids": None}),
    ({"bad_words_ids": [], "sequence_bias": {}, "stop_strings": [], "forced_decoder_ids": []}, {}),
    ({"exponential_decay_length_penalty": [], "suppress_tokens": [], "eos_token_id": []}, {}),
]


@pytest.mark.parametrize(("file", "call"), NEUTRAL, ids=repr)
@pytest.mark.parity("N14")
def test_settings_that_are_off_after_merging_are_not_validated(file, call):
    actual = merged(file, call)
    for name, value in call.items():
        if value is not None and name != "penalty_alpha":
            assert getattr(actual, name) == value, name


# Options of a file, options of a call, the invalid one.
INVALID = [
    ({"temperature": 0.0, "do_sample": True}, {}, "temperature=0.0"),
    ({"temperature": 0.0}, {"do_sample": True}, "temperature=0.0"),
    ({"top_p": 2.0}, {"do_sample": True}, "top_p=2.0"),
    ({"num_beams": 0}, {"do_sample": True}, "num_beams=0"),
    ({"num_beams": "4"}, {}, "num_beams='4'"),
    ({"do_sample": "yes"}, {}, "do_sample='yes'"),
    ({"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.5}, {"do_sample": True}, "num_beam_groups=2"),
    ({"num_return_sequences": 3}, {}, "num_return_sequences=3"),
    ({"num_beams": 2}, {"num_return_sequences": 3}, "num_beams=2"),
    ({"max_new_tokens": 0}, {}, "max_new_tokens=0"),
    ({"bad_words_ids": [[]]}, {}, r"bad_words_ids="),
    ({"bad_words_ids": [[100]]}, {}, r"bad_words_ids=.* outside the vocabulary of 100"),
    ({"num_beams": 4, "stop_strings": ["x"]}, {}, "stop_strings="),
    ({"eos_token_id": "7"}, {}, "eos_token_id='7'"),
]


@pytest.mark.parametrize(("file", "call", "invalid"), INVALID, ids=repr)
@pytest.mark.parity("N14")
def test_errors_name_the_file_and_how_to_override_it(file, call, invalid):
    name = invalid.partition("=")[0]
    with pytest.raises(ValueError, match=rf"generation_config.json \(or config.json\) has {invalid}.*pass {name}= "):
        merged(file, call)
    with pytest.raises(ValueError) as error:  # the same values in the call
        merged({}, {**file, **call})
    assert "(or config.json) has" not in str(error.value) and name in str(error.value)


@pytest.mark.parity("N14", "N8")
def test_unsupported_methods_in_a_file_are_rejected_with_a_remedy():
    for file in ({"penalty_alpha": 0.6}, {"penalty_alpha": 0.6, "top_k": 4}):
        with pytest.raises(
            NotImplementedError, match=r"has penalty_alpha=0.6: contrastive .*, or pass penalty_alpha=None"
        ):
            merged(file)
    with pytest.raises(NotImplementedError, match="contrastive"):
        merged({}, {"penalty_alpha": 0.6, "do_sample": True})


@pytest.mark.parity("N14")
def test_invalid_files_are_named_and_options_override_them(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"num_beams": 0, "top_k": 3}))
    options = {"config_file_name": "mine.json"}
    with pytest.raises(ValueError, match=r"mine.json has num_beams=0"):
        GenerationConfig.from_pretrained(tmp_path, **options)
    assert GenerationConfig.from_pretrained(tmp_path, **options, num_beams=2) == GenerationConfig(num_beams=2, top_k=3)
    assert GenerationConfig.from_pretrained(tmp_path.parent, subfolder=tmp_path.name, **options, num_beams=1).top_k == 3
    with pytest.raises(TypeError, match="no option 'num_beem'; did you mean 'num_beams'"):
        GenerationConfig.from_pretrained(tmp_path, num_beem=2)
    with pytest.raises(ValueError, match="revision='main' is for Hub ids"):
        GenerationConfig.from_pretrained(tmp_path, revision="main")
    with pytest.raises(FileNotFoundError, match="from_model_config"):
        GenerationConfig.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def small():
    """A model whose config has the default ids of GPT-2: 50256."""
    model = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    return model, jm.init(model, jax.random.key(0))


@pytest.mark.parity("N13", "N14")
def test_default_ids_outside_the_vocabulary_are_ignored_with_one_warning(small):
    model, params = small
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actual = jm.generate(model, params, np.array([[5, 6, 7]]), max_new_tokens=3)
    assert actual.sequences.shape == (1, 6)
    words = "ids of the checkpoint outside its vocabulary of 60 are ignored: bos_token_id 50256; eos_token_id 50256"
    assert [str(each.message) for each in caught] == [words]
    settings = {"eos_token_id": [3, 60], "suppress_tokens": [60], "forced_bos_token_id": 99, "pad_token_id": 60}
    with pytest.warns(UserWarning, match="are ignored"):
        config = GenerationConfig.from_model_config(model.config.replace(generation=settings))
    assert (config.eos_token_id, config.suppress_tokens, config.forced_bos_token_id) == ((3,), (), None)
    assert (config.pad_token_id, config.bos_token_id) == (None, None)


@pytest.mark.parity("N14")
def test_ids_of_the_call_outside_the_vocabulary_are_rejected(small):
    model, params = small
    for settings in ({"eos_token_id": 60}, {"generation_config": GenerationConfig(eos_token_id=60)}):
        with pytest.raises(ValueError, match="eos_token_id contains 60, outside the vocabulary of 60"):
            jm.generate(model, params, np.array([[5]]), **settings)


@pytest.mark.parity("N14")
def test_dicts_and_objects_of_other_libraries_are_read_by_name(gpt2):
    ids = random_ids(2, 5)
    expected = generate(gpt2, ids, generation_config=GenerationConfig(num_beams=2, max_new_tokens=4))
    for settings in (
        {"num_beams": 2, "max_new_tokens": 4, "use_cache": True},
        transformers.GenerationConfig(num_beams=2, max_new_tokens=4),
        transformers.GenerationConfig(num_beams=2, max_new_tokens=4).to_dict(),
    ):
        actual = generate(gpt2, ids, generation_config=settings)
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
    assert generate(gpt2, ids, generation_config={"max_new_tokens": 4}, max_new_tokens=2).sequences.shape == (2, 7)
    with pytest.raises(TypeError, match="generation_config= has no option 'num_beem'"):
        generate(gpt2, ids, generation_config={"num_beem": 2})
    with pytest.raises(TypeError, match="generation_config= has no option 'use_cache'.*a cache is always used"):
        generate(gpt2, ids, generation_config=transformers.GenerationConfig(use_cache=False))
    with pytest.raises(ValueError, match=r"generation_config= has num_beams=0"):
        generate(gpt2, ids, generation_config={"num_beams": 0})
    for settings in ("folder", 5, GenerationConfig):
        with pytest.raises(TypeError, match="GenerationConfig.from_pretrained"):
            generate(gpt2, ids, generation_config=settings)


@pytest.mark.parity("N14")
def test_numpy_and_jax_scalars_are_accepted():
    numbers = {"num_beams": np.int64(3), "top_k": jnp.int32(7), "temperature": np.float32(0.5), "do_sample": np.True_}
    numbers |= {"eos_token_id": np.array([3, 4]), "pad_token_id": jnp.int32(0), "bad_words_ids": jnp.array([[5, 6]])}
    numbers |= {"sequence_bias": {(np.int32(5),): jnp.float32(1.5)}, "forced_eos_token_id": np.int8(2)}
    actual = GenerationConfig(**numbers)
    assert (actual.num_beams, actual.top_k, actual.temperature, actual.do_sample) == (3, 7, 0.5, True)
    assert (actual.eos_token_id, actual.pad_token_id, actual.bad_words_ids) == ((3, 4), 0, ((5, 6),))
    assert (actual.sequence_bias, actual.forced_eos_token_id) == ((((5,), 1.5),), (2,))
    assert json.loads(json.dumps(actual.to_dict())) == actual.to_dict()
