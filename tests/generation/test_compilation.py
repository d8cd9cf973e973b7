"""Traced values do not recompile, and compilations are explained."""

import contextlib

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.generation.loop import num_compiled
from jaxmodels.generation.search import bucket

V = 61


@contextlib.contextmanager
def counted():
    """Records the names of the programs that JAX compiles inside, those of eager operations included."""
    seen = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(details.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def gpt2():
    config = jm.GPT2Config(
        vocab_size=V, n_positions=128, n_embd=16, n_layer=1, n_head=2, eos_token_id=3, pad_token_id=0
    )
    model = jm.GPT2LMHeadModel(config)
    return model, jm.init(model, jax.random.key(0))


@pytest.fixture(scope="module")
def another():
    """A model for which no other test has compiled anything, so that the most similar program is its own."""
    config = jm.GPT2Config(
        vocab_size=V + 1, n_positions=96, n_embd=8, n_layer=1, n_head=2, eos_token_id=3, pad_token_id=0
    )
    model = jm.GPT2LMHeadModel(config)
    return model, jm.init(model, jax.random.key(0))


def programs(model, params, calls, batch=2):
    """How many decoding loops are compiled by the calls."""
    before = num_compiled()
    for length, options in calls:
        ids = np.random.default_rng(length).integers(4, V, (batch, length))
        jm.generate(model, params, ids, **options)
    return num_compiled() - before


def explained(model, params, calls, **more) -> str:
    """The explanation of the last program, which these calls compiled."""
    assert programs(model, params, calls, **more) == 1
    return jm.explain_recompiles().splitlines()[-1].split(": ", 1)[1]


def sampled(seed=1, **options):
    return {"do_sample": True, "key": jax.random.key(seed), **options}


# A temperature or penalty of exactly 1 is disabled, which is another program.
def test_lengths_and_values_in_a_bucket_share_one_program(gpt2):
    warm = [(20, sampled(max_new_tokens=20, temperature=0.5, top_k=7, top_p=0.5))]
    assert programs(*gpt2, warm) == 1
    others = [
        (n, sampled(n, max_new_tokens=3 + n, temperature=0.61 + n / 50, top_k=1 + n, top_p=0.3 + n / 50))
        for n in range(1, 29)
    ]
    with counted() as seen:
        assert programs(*gpt2, others) == 0
    assert not [name for name in seen if str(name) in ("start", "resume")]


EVERY = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 9, "min_length": 3}
EVERY |= {"encoder_repetition_penalty": 1.1, "bad_words_ids": [[4], [5, 6]], "sequence_bias": {(7,): 1.0}}
EVERY |= {"min_new_tokens": 1, "forced_bos_token_id": 9, "forced_eos_token_id": 3, "suppress_tokens": [10]}
EVERY |= {"begin_suppress_tokens": [11], "forced_decoder_ids": [(40, 12)], "eos_token_id": 3, "max_new_tokens": 9}
EVERY |= {"exponential_decay_length_penalty": (5, 1.1)}


def others(n: int) -> dict:
    """The options of EVERY with different values."""
    return {
        "repetition_penalty": 1.0 + n / 9,
        "no_repeat_ngram_size": n,
        "encoder_no_repeat_ngram_size": 2 + n,
        "encoder_repetition_penalty": 1.0 + n / 7,
        "min_length": n,
        "min_new_tokens": 1 + n % 3,
        "bad_words_ids": [[4 + n], [n, 5, 6][: 1 + n % 3], [20 + n]],
        "sequence_bias": {(7, n): 1.0 * n, (n,): -1.0},
        "forced_bos_token_id": n,
        "forced_eos_token_id": 3 + n,
        "exponential_decay_length_penalty": (n, 1.0 + n / 20),
        "suppress_tokens": list(range(20, 21 + n % 4)),
        "begin_suppress_tokens": [n],
        "forced_decoder_ids": [(30 + n, 12 + n)],
        "eos_token_id": 3 + n,
        "max_new_tokens": 5 + n,
    }


@pytest.mark.parametrize("beams", [{}, {"num_beams": 2, "length_penalty": 0.5}], ids=["greedy", "beams"])
def test_values_of_every_processor_share_one_program(gpt2, beams):
    assert programs(*gpt2, [(20, {**EVERY, **beams})]) == 1
    calls = [(n, {**others(n), **({"num_beams": 2, "length_penalty": n / 3} if beams else {})}) for n in range(1, 21)]
    assert programs(*gpt2, calls) == 0


def test_another_bucket_compiles_once(gpt2):
    greedy = {"max_new_tokens": 5}
    assert programs(*gpt2, [(10, greedy)]) == 1
    assert programs(*gpt2, [(12, greedy), (30, greedy), (1, greedy)]) == 0
    assert programs(*gpt2, [(33, greedy), (48, greedy), (40, greedy)]) == 1
    assert programs(*gpt2, [(10, greedy)], batch=5) == 1
    assert programs(*gpt2, [(7, {"max_new_tokens": 31})], batch=6) == 0, "a batch of five is padded to six"


def test_another_callback_or_key_does_not_recompile(gpt2):
    def call(callback, seed, **more):
        return programs(*gpt2, [(9, sampled(seed, max_new_tokens=5, streamer=callback, **more))])

    assert call(lambda tokens: None, 0) == 1
    assert call(lambda tokens: None, 1) == 0
    assert call(lambda tokens: None, 1, prefix_allowed_tokens_fn=lambda example, ids: [5, 6]) == 1
    assert call(lambda tokens: None, 1, prefix_allowed_tokens_fn=lambda example, ids: [7, 8]) == 0


NEW = {
    "prompts.prefix: int32[2,32] -> int32[2,48]; prompts.mask: int32[2,32] -> int32[2,48]": (40, {}),
    "capacity: 32 -> 48": (10, {"max_new_tokens": 40}),
    "requested[0]: absent -> 'output_scores'": (10, {"output_scores": True}),
    "search.config.eos_ids: int32[1] -> int32[2]": (10, {"eos_token_id": [3, 4]}),
    "prompts.cache_dtype: None -> dtype('int8')": (10, {"cache_dtype": "int8"}),
    "search.config.processors[1]: absent -> NoRepeatNGram; search.config.processors[1].size: absent -> int32[]": (
        10,
        {"no_repeat_ngram_size": 3},
    ),
    "function: 'start' -> 'resume'": (10, {"max_time": 1e6}),
}


def test_the_explanation_names_exactly_the_changes(another):
    base = {"max_new_tokens": 20, "repetition_penalty": 1.5}
    assert programs(*another, [(10, base)]) == 1
    for change, (length, options) in NEW.items():
        assert explained(*another, [(length, {**base, **options})]) == change


def test_calls_without_compilation_are_not_explained(gpt2):
    before = jm.explain_recompiles()
    assert programs(*gpt2, [(10, {"max_new_tokens": 5}), (11, {"max_new_tokens": 6})]) == 0
    assert jm.explain_recompiles() == before


WARM = {
    "beams": ({"num_beams": 3, "repetition_penalty": 1.5}, 1),
    "chunks": ({"max_time": 1e-9, "repetition_penalty": 1.5}, 2),  # one program starts the loop, another one resumes it
    "all at once": (
        {
            "do_sample": True,
            "top_p": 0.5,
            "key": jax.random.key(0),
            "streamer": lambda tokens: None,
            "prefix_allowed_tokens_fn": lambda example, ids: [5, 6],
            "stopping_criteria": (),
        },
        1,
    ),
}


@pytest.mark.parametrize("name", WARM)
def test_warmup_compiles_what_later_calls_use(name, gpt2):
    options, parts = WARM[name]
    sizes = {"prompt_lengths": [20], "batch_sizes": [1], "max_new_tokens": 20}
    assert jm.warmup(*gpt2, **sizes, **options) == parts
    assert jm.warmup(*gpt2, **sizes, **options) == 0
    later = {"max_time": 1e6} if "max_time" in options else {}
    calls = [(n, {**options, **later, "max_new_tokens": 6 + n // 2}) for n in range(1, 33, 5)]
    assert programs(*gpt2, calls, batch=1) == 0


@pytest.mark.slow
def test_warmup_of_several_sizes_of_an_encoder_decoder(bart):
    sizes = {"prompt_lengths": [9, 30, 40], "batch_sizes": [1, 2], "max_new_tokens": 12}
    assert jm.warmup(bart.model, bart.params, **sizes, num_beams=2) == 4
    before = num_compiled()
    for batch, length in ((1, 3), (2, 20), (1, 44), (2, 48)):
        jm.generate(bart.model, bart.params, np.full((batch, length), 7), max_new_tokens=10, num_beams=2)
    assert num_compiled() == before


def test_buckets_cover_all_sizes_with_bounded_padding():
    sizes = sorted({bucket(n) for n in range(1, 1025)})
    assert sizes == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(n <= bucket(n) <= max(32, 1.5 * n) for n in range(1, 3000))
    assert sorted({bucket(n, steps=4) for n in range(1, 129)}) == [32, 40, 48, 56, 64, 80, 96, 112, 128]
    assert all(n <= bucket(n, steps=4) <= max(32, 1.25 * n) for n in range(1, 3000))
