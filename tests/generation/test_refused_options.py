"""Contradictory and invalid options are rejected by name before anything compiles (docs/parity.md, N7 to N10)."""

import jax
import numpy as np
import pytest
from support.diverse_models import V, generate, random_ids

import jaxmodels as jm
from jaxmodels.generation.loop import num_compiled

IDS = random_ids(2, 5)
KEY = jax.random.key(0)
BEAMS = {"num_beams": 4}

CONTRADICTIONS = {
    "beams and a streamer": ({**BEAMS, "streamer": print}, "a streamer needs num_beams=1"),
    "more returned than beams": (
        {**BEAMS, "num_return_sequences": 5},
        "num_return_sequences=5 must be at most num_beams=4",
    ),
    "more than one greedy answer": ({"num_return_sequences": 2}, "needs do_sample=True or beams"),
    "min above max": ({"min_length": 30, "max_length": 20}, "min_length requires 30 tokens .* at most 20 are allowed"),
    "min above max_new": ({"min_length": 12, "max_new_tokens": 6}, "min_length requires 12 .* at most 11 are allowed"),
    "min_new above max_new": ({"min_new_tokens": 7, "max_new_tokens": 6}, "min_new_tokens requires 12 .* at most 11"),
    "prompt as long as max": ({"max_length": 5}, "has 5 tokens and max_length=5 includes it"),
    "too long": ({"max_new_tokens": 92}, "5 tokens and 92 new ones are more than the 96 positions"),
    "groups that sample": (
        {**BEAMS, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True, "key": KEY},
        "beam groups cannot be sampled",
    ),
    "uneven groups": ({**BEAMS, "num_beam_groups": 3, "diversity_penalty": 1.0}, "multiple of num_beam_groups"),
    "groups all the same": ({**BEAMS, "num_beam_groups": 2}, "beam groups need diversity_penalty above 0"),
    "diversity without groups": (
        {**BEAMS, "diversity_penalty": 1.0},
        "diversity_penalty needs num_beam_groups above 1",
    ),
    "groups without beams": (
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
        "multiple of num_beam_groups, got 1 and 2",
    ),
    "beams and stop strings": ({**BEAMS, "stop_strings": ["a"]}, "stop_strings cannot be used with beams"),
    "stop strings unread": ({"stop_strings": ["a"]}, "stop_strings need tokenizer="),
    "sampling without a key": ({"do_sample": True}, "do_sample=True needs key="),
    "keys of other prompts": ({"do_sample": True, "key": jax.random.split(KEY, 3)}, "one per prompt .2."),
}
VOCABULARY = {
    "forced first": ({"forced_bos_token_id": V}, "forced_bos_token_id contains 67, outside the vocabulary of 67"),
    "forced last": ({"forced_eos_token_id": [3, V]}, "forced_eos_token_id contains 67"),
    "forced ids": ({"forced_decoder_ids": [[6, 70]]}, "forced_decoder_ids contains 70"),
    "bad word": ({"bad_words_ids": [[5], [6, 99]]}, "bad_words_ids contains 99"),
    "negative bad word": ({"bad_words_ids": [[-1]]}, "bad_words_ids contains -1"),
    "biased": ({"sequence_bias": {(5, 80): 1.0}}, "sequence_bias contains 80"),
    "suppressed": ({"suppress_tokens": [67]}, "suppress_tokens contains 67"),
    "suppressed first": ({"begin_suppress_tokens": [-3]}, "begin_suppress_tokens contains -3"),
    "end": ({"eos_token_id": [5, 67]}, "eos_token_id contains 67"),
    "padding": ({"pad_token_id": 67}, "pad_token_id contains 67"),
    "all banned": ({"bad_words_ids": [[i] for i in range(V)], "eos_token_id": []}, "ban every token"),
    "all banned or suppressed": (
        {"bad_words_ids": [[i] for i in range(40)], "suppress_tokens": list(range(40, V)), "eos_token_id": 50},
        "bad_words_ids and suppress_tokens ban every token",
    ),
}
VALUES = {
    "words that are no ids": (
        {"bad_words_ids": [[1.9, "3"]]},
        r"bad_words_ids must be a list of lists of ids \(ints\)",
    ),
    "a bias of half an id": ({"sequence_bias": {(1.5,): 1.0}}, "sequence_bias must be {ids: bias}"),
    "a bias that is text": ({"sequence_bias": {(1,): "1.0"}}, "a number as bias"),
    "forced half an id": ({"forced_decoder_ids": [[1, 2.5]]}, "forced_decoder_ids must be .* of ints"),
    "forced text": ({"forced_decoder_ids": {"1": 2}}, "forced_decoder_ids must be .* of ints"),
    "an id beyond int32": ({"eos_token_id": 2**32 + 5}, "eos_token_id must be an id"),
    "a pad id beyond int32": ({"pad_token_id": 2**32 + 5}, "pad_token_id must be an id"),
    "a switch that is text": ({"do_sample": "no"}, "do_sample must be true or false"),
    "a bool for a number": ({"num_beams": True}, "num_beams must be an int of at least 1, got True"),
    "more beams than fit anywhere": ({"num_beams": 10**9}, "an int of at most 65536, got 1000000000"),
    "temperature NaN": ({"temperature": float("nan"), "do_sample": True}, "temperature must be above 0, got nan"),
    "unknown": ({"num_beem": 3}, "no option 'num_beem'; did you mean 'num_beams'"),
    "beams": ({"num_beams": 0}, "num_beams must be an int of at least 1, got 0"),
    "half a beam": ({"num_beams": 2.5}, "num_beams must be an int"),
    "early_stopping": ({**BEAMS, "early_stopping": "sometimes"}, "True, False or \"never\", got 'sometimes'"),
    "temperature": ({"temperature": -1.0}, "temperature must be above 0, got -1.0"),
    "top_p": ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    "sampling at 0": (
        {"temperature": 0.0, "do_sample": True, "key": KEY},
        "temperature must be above 0 with do_sample=True",
    ),
    "typical_p": ({"typical_p": 1.1}, "typical_p must be in"),
    "min_p": ({"min_p": 2.0}, "min_p must be in"),
    "epsilon_cutoff": ({"epsilon_cutoff": 1.0}, "epsilon_cutoff must be in"),
    "eta_cutoff": ({"eta_cutoff": -0.1}, "eta_cutoff must be in"),
    "repetition_penalty": ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    "encoder_repetition_penalty": ({"encoder_repetition_penalty": -2.0}, "encoder_repetition_penalty must be above 0"),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be an int of at least 0"),
    "max_time": ({"max_time": 0}, "max_time must be above 0 seconds"),
    "an empty bad word": ({"bad_words_ids": [[5], []]}, "each with at least one, got"),
    "a flat list of bad words": ({"bad_words_ids": [5, 6]}, "bad_words_ids must be a list of lists of ids"),
    "an empty bias": ({"sequence_bias": {(): 1.0}}, "with at least one id"),
    "an empty string": ({"stop_strings": ["a", ""]}, "each with at least one character"),
    "strings that are none": ({"stop_strings": [5]}, "stop_strings must be a string or a list of strings"),
    "eos that is none": ({"eos_token_id": "5"}, "eos_token_id must be an id"),
    "cache of ints": (
        {"cache_dtype": "int32", "max_new_tokens": 3},
        "the dtype of a cache is floating or int8, got int32",
    ),
}
METHODS = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "constrained beam search": {"force_words_ids": [[5]], **BEAMS},
    "assisted generation": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("name", [*CONTRADICTIONS, *VOCABULARY, *VALUES])
@pytest.mark.parity("N2", "N6", "N10", "N12", "N14")
def test_options_are_rejected_by_name_before_compilation(name, gpt2):
    options, message = {**CONTRADICTIONS, **VOCABULARY, **VALUES}[name]
    before = num_compiled()
    with pytest.raises(ValueError, match=message):
        generate(gpt2, IDS, **options)
    assert num_compiled() == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parity("N1", "N7", "N8", "N9")
def test_unsupported_methods_are_rejected_by_name(method, gpt2):
    before = num_compiled()
    with pytest.raises(NotImplementedError, match=f"{method} .* is not implemented; leave"):
        generate(gpt2, IDS, **METHODS[method])
    assert num_compiled() == before


@pytest.mark.parametrize("name", ["assistant_model", "constraints"])
@pytest.mark.parity("N1", "N7", "N9")
def test_objects_of_unsupported_methods_are_rejected(name, gpt2):
    with pytest.raises(NotImplementedError, match=name):
        generate(gpt2, IDS, **{name: object()})


@pytest.mark.parity("N8", "N10", "N14")
def test_invalid_configurations_are_rejected_at_construction():
    with pytest.raises(ValueError, match="num_return_sequences=2 needs"):
        jm.GenerationConfig(num_return_sequences=2)
    with pytest.raises(NotImplementedError, match="contrastive search"):
        jm.GenerationConfig.from_dict({"penalty_alpha": 0.5})
    with pytest.raises(TypeError, match="num_beem"):
        jm.GenerationConfig(num_beem=3)


def test_a_single_eos_id_among_bad_words_is_not_banned(gpt2):
    """As in the reference, [eos] among the bad words does not keep the sequence from ending."""
    free = np.asarray(generate(gpt2, IDS, max_new_tokens=8, pad_token_id=4, eos_token_id=[]).sequences)[:, 5:]
    eos, options = int(free[0, 2]), {"max_new_tokens": 8, "pad_token_id": 4}
    actual = np.asarray(generate(gpt2, IDS, eos_token_id=eos, bad_words_ids=[[eos], [66]], **options).sequences)[0, 5:]
    end = free[0].tolist().index(eos)
    assert actual[end] == eos and (actual[end + 1 :] == 4).all()
