"""Contradictory and impossible options are refused by name before anything compiles (docs/parity.md, N7 to N10)."""

import jax
import numpy as np
import pytest
from support.lively import V, ours, texts

import jaxmodels as jm
from jaxmodels.generation import recompiles

IDS = texts(2, 5)
KEY = jax.random.key(0)
BEAMS = {"num_beams": 4}

CONTRADICTIONS = {
    "beams and a streamer": ({**BEAMS, "streamer": print}, "a streamer needs num_beams=1"),
    "more returned than beams": (
        {**BEAMS, "num_return_sequences": 5},
        "num_return_sequences=5 is more than num_beams=4",
    ),
    "more than one greedy answer": ({"num_return_sequences": 2}, "needs do_sample=True or beams"),
    "min above max": ({"min_length": 30, "max_length": 20}, "min_length asks for 30 tokens .* at most 20 may come"),
    "min above max_new": ({"min_length": 12, "max_new_tokens": 6}, "min_length asks for 12 .* at most 11 may come"),
    "min_new above max_new": ({"min_new_tokens": 7, "max_new_tokens": 6}, "min_new_tokens asks for 12 .* at most 11"),
    "prompt as long as max": ({"max_length": 5}, "has 5 tokens and max_length=5 counts it too"),
    "too long": ({"max_new_tokens": 92}, "5 tokens and 92 new ones are more than the 96 positions"),
    "groups that sample": (
        {**BEAMS, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True, "key": KEY},
        "beam groups do not sample",
    ),
    "uneven groups": ({**BEAMS, "num_beam_groups": 3, "diversity_penalty": 1.0}, "multiple of num_beam_groups"),
    "groups all the same": ({**BEAMS, "num_beam_groups": 2}, "beam groups need diversity_penalty above 0"),
    "diversity without groups": ({**BEAMS, "diversity_penalty": 1.0}, "it needs num_beam_groups above 1"),
    "groups without beams": (
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
        "multiple of num_beam_groups, got 1 and 2",
    ),
    "beams and stop strings": ({**BEAMS, "stop_strings": ["a"]}, "num_beams=1 with them"),
    "stop strings unread": ({"stop_strings": ["a"]}, "stop_strings needs tokenizer="),
    "sampling without a key": ({"do_sample": True}, "do_sample=True needs key="),
    "keys of other prompts": ({"do_sample": True, "key": jax.random.split(KEY, 3)}, "one for each of the 2 prompts"),
}
VOCABULARY = {
    "forced first": ({"forced_bos_token_id": V}, "forced_bos_token_id holds 67, outside the vocabulary of 67"),
    "forced last": ({"forced_eos_token_id": [3, V]}, "forced_eos_token_id holds 67"),
    "forced ids": ({"forced_decoder_ids": [[6, 70]]}, "forced_decoder_ids holds 70"),
    "bad word": ({"bad_words_ids": [[5], [6, 99]]}, "bad_words_ids holds 99"),
    "negative bad word": ({"bad_words_ids": [[-1]]}, "bad_words_ids holds -1"),
    "biased": ({"sequence_bias": {(5, 80): 1.0}}, "sequence_bias holds 80"),
    "suppressed": ({"suppress_tokens": [67]}, "suppress_tokens holds 67"),
    "suppressed first": ({"begin_suppress_tokens": [-3]}, "begin_suppress_tokens holds -3"),
    "end": ({"eos_token_id": [5, 67]}, "eos_token_id holds 67"),
    "padding": ({"pad_token_id": 67}, "pad_token_id holds 67"),
    "all banned": ({"bad_words_ids": [[i] for i in range(V)], "eos_token_id": []}, "ban every token"),
    "all banned or suppressed": (
        {"bad_words_ids": [[i] for i in range(40)], "suppress_tokens": list(range(40, V)), "eos_token_id": 50},
        "bad_words_ids and suppress_tokens ban every token",
    ),
}
VALUES = {
    "words that are no ids": ({"bad_words_ids": [[1.9, "3"]]}, r"bad_words_ids is a list of lists of ids \(ints\)"),
    "a bias of half an id": ({"sequence_bias": {(1.5,): 1.0}}, "sequence_bias is {ids: bias}"),
    "a bias that is text": ({"sequence_bias": {(1,): "1.0"}}, "a number as bias"),
    "forced half an id": ({"forced_decoder_ids": [[1, 2.5]]}, "forced_decoder_ids is .* of ints"),
    "forced text": ({"forced_decoder_ids": {"1": 2}}, "forced_decoder_ids is .* of ints"),
    "an id beyond int32": ({"eos_token_id": 2**32 + 5}, "eos_token_id is an id"),
    "a pad id beyond int32": ({"pad_token_id": 2**32 + 5}, "pad_token_id is an id"),
    "a switch that is text": ({"do_sample": "no"}, "do_sample is true or false"),
    "a bool for a number": ({"num_beams": True}, "num_beams is an int of at least 1, got True"),
    "more beams than fit anywhere": ({"num_beams": 10**9}, "an int of at most 65536, got 1000000000"),
    "temperature NaN": ({"temperature": float("nan"), "do_sample": True}, "temperature is above 0, got nan"),
    "unknown": ({"num_beem": 3}, "no option 'num_beem'; did you mean 'num_beams'"),
    "beams": ({"num_beams": 0}, "num_beams is an int of at least 1, got 0"),
    "half a beam": ({"num_beams": 2.5}, "num_beams is an int"),
    "early_stopping": ({**BEAMS, "early_stopping": "sometimes"}, "True, False or \"never\", got 'sometimes'"),
    "temperature": ({"temperature": -1.0}, "temperature is above 0, got -1.0"),
    "top_p": ({"top_p": 1.5}, r"top_p is in \(0, 1\], got 1.5"),
    "sampling at 0": (
        {"temperature": 0.0, "do_sample": True, "key": KEY},
        "temperature is above 0 with do_sample=True",
    ),
    "typical_p": ({"typical_p": 1.1}, "typical_p is in"),
    "min_p": ({"min_p": 2.0}, "min_p is in"),
    "epsilon_cutoff": ({"epsilon_cutoff": 1.0}, "epsilon_cutoff is in"),
    "eta_cutoff": ({"eta_cutoff": -0.1}, "eta_cutoff is in"),
    "repetition_penalty": ({"repetition_penalty": 0.0}, "repetition_penalty is above 0"),
    "encoder_repetition_penalty": ({"encoder_repetition_penalty": -2.0}, "encoder_repetition_penalty is above 0"),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is an int of at least 0"),
    "max_time": ({"max_time": 0}, "max_time is above 0 seconds"),
    "an empty bad word": ({"bad_words_ids": [[5], []]}, "each with at least one, got"),
    "a flat list of bad words": ({"bad_words_ids": [5, 6]}, "bad_words_ids is a list of lists of ids"),
    "an empty bias": ({"sequence_bias": {(): 1.0}}, "with at least one id"),
    "an empty string": ({"stop_strings": ["a", ""]}, "each with at least one character"),
    "strings that are none": ({"stop_strings": [5]}, "stop_strings is a text or a list of texts"),
    "eos that is none": ({"eos_token_id": "5"}, "eos_token_id is an id"),
    "cache of ints": (
        {"cache_dtype": "int32", "max_new_tokens": 3},
        "the dtype of a cache is floating or int8, got int32",
    ),
}
LATER = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "constrained beam search": {"force_words_ids": [[5]], **BEAMS},
    "assisted generation": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("name", [*CONTRADICTIONS, *VOCABULARY, *VALUES])
@pytest.mark.parity("N2", "N6", "N10", "N12", "N14")
def test_it_is_refused_by_name_before_anything_compiles(name, gpt2):
    options, message = {**CONTRADICTIONS, **VOCABULARY, **VALUES}[name]
    before = recompiles.compiled()
    with pytest.raises(ValueError, match=message):
        ours(gpt2, IDS, **options)
    assert recompiles.compiled() == before


@pytest.mark.parametrize("method", LATER)
@pytest.mark.parity("N1", "N7", "N8", "N9")
def test_methods_that_are_for_later_are_refused_by_name(method, gpt2):
    before = recompiles.compiled()
    with pytest.raises(NotImplementedError, match=f"{method} .* is not here yet; leave"):
        ours(gpt2, IDS, **LATER[method])
    assert recompiles.compiled() == before


@pytest.mark.parametrize("name", ["assistant_model", "constraints"])
@pytest.mark.parity("N1", "N7", "N9")
def test_objects_of_those_methods_are_refused_too(name, gpt2):
    with pytest.raises(NotImplementedError, match=name):
        ours(gpt2, IDS, **{name: object()})


@pytest.mark.parity("N8", "N10", "N14")
def test_a_bad_configuration_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match="num_return_sequences=2 needs"):
        jm.GenerationConfig(num_return_sequences=2)
    with pytest.raises(NotImplementedError, match="contrastive search"):
        jm.GenerationConfig.from_dict({"penalty_alpha": 0.5})
    with pytest.raises(TypeError, match="num_beem"):
        jm.GenerationConfig(num_beem=3)


def test_generate_inside_jit_is_refused(gpt2):
    with pytest.raises(TypeError, match="call it outside jit"):
        jax.jit(lambda ids: ours(gpt2, ids).sequences)(IDS)


def test_words_that_contain_an_end_are_banned_and_an_end_alone_is_not(gpt2):
    """As in the reference, [eos] among the bad words is no reason for a text without an end."""
    free = np.asarray(ours(gpt2, IDS, max_new_tokens=8, pad_token_id=4, eos_token_id=[]).sequences)[:, 5:]
    eos, options = int(free[0, 2]), {"max_new_tokens": 8, "pad_token_id": 4}
    got = np.asarray(ours(gpt2, IDS, eos_token_id=eos, bad_words_ids=[[eos], [66]], **options).sequences)[0, 5:]
    end = free[0].tolist().index(eos)
    assert got[end] == eos and (got[end + 1 :] == 4).all()
